// Identity checks of loaded models: queued as ordinary work, their errors reported.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "base/cancel.h"
#include "engine/loaded_model.h"
#include "sched/executor.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::engine {

// Queues an identity check of the model. Its errors become gauges, and refuse the sites whose identity fails; `finished` hears its end on
// the executor's thread, when the check holds the model no more. Any thread; the references outlive the check. Who cancels it pokes the
// executor.
absl::Status SubmitCheck(const std::shared_ptr<LoadedModel>& model, sched::Executor& executor, obs::Metrics& metrics, CancelToken cancel,
                         std::function<void(absl::Status)> finished);

// The same, and waits for the end: warms up and checks before serving.
absl::Status CheckNow(const std::shared_ptr<LoadedModel>& model, sched::Executor& executor, obs::Metrics& metrics, CancelToken cancel);

}  // namespace fluoroscope::engine
