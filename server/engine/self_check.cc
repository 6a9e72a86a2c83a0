#include "engine/self_check.h"

#include <future>
#include <utility>

#include "base/status_macros.h"
#include "engine/identity_check.h"
#include "engine/work_info.h"
#include "obs/metrics.h"

namespace fluoroscope::engine {
namespace {

void Report(LoadedModel& model, const IdentityErrors& errors) {
  model.gauges->SetIdentityError("residual", errors.residual);
  model.gauges->SetIdentityError("attention", errors.attention);
  model.gauges->SetIdentityError("pattern_sum", errors.pattern_sum);
  model.gauges->SetIdentityError("logits", errors.logits);
  model.refused.Set(SitesRefusedFor(errors, model.model->dtype));
}

}  // namespace

absl::Status SubmitCheck(const std::shared_ptr<LoadedModel>& model, sched::Executor& executor, obs::Metrics& metrics, CancelToken cancel,
                         std::function<void(absl::Status)> finished) {
  FS_ASSIGN_OR_RETURN(std::shared_ptr<IdentityCheck> check,
                      IdentityCheck::Create(model, metrics, [model = model, finished](absl::StatusOr<IdentityErrors> errors) mutable {
                        if (errors.ok()) Report(*model, *errors);
                        model.reset();  // whoever waits may want its memory
                        finished(errors.status());
                      }));
  sched::WorkInfo info = OwnWork("self-check", check->peak_bytes());
  info.cancel = std::move(cancel);
  executor.Submit(std::move(check), std::move(info));
  return absl::OkStatus();
}

absl::Status CheckNow(const std::shared_ptr<LoadedModel>& model, sched::Executor& executor, obs::Metrics& metrics, CancelToken cancel) {
  std::promise<absl::Status> finished;
  FS_RETURN_IF_ERROR(
      SubmitCheck(model, executor, metrics, std::move(cancel), [&](absl::Status status) { finished.set_value(std::move(status)); }));
  return finished.get_future().get();
}

}  // namespace fluoroscope::engine
