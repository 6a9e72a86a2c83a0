// Work of one step, for start-up.
#pragma once

#include <functional>
#include <future>

#include "absl/status/status.h"
#include "sched/work.h"

namespace fluoroscope::engine {

// One call on the executor's thread, in one step; for start-up, when nobody waits for a turn.
class OneCall final : public sched::Work {
 public:
  explicit OneCall(std::function<absl::Status()> call) : call_(std::move(call)) {}
  Progress Step() override {
    result_.set_value(call_());
    return Progress::kDone;
  }
  void Abort(absl::Status why) override { result_.set_value(std::move(why)); }
  std::future<absl::Status> result() { return result_.get_future(); }

 private:
  std::function<absl::Status()> call_;
  std::promise<absl::Status> result_;
};

}  // namespace fluoroscope::engine
