// A Work whose every step is written in the test, with the contract of sched/work.h checked while it runs.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "sched/work.h"

namespace fluoroscope::sched {

// A test that waits longer than this for something has found a bug: nothing here takes more than a moment.
inline constexpr std::chrono::seconds kPatience{30};

// The order in which things happened, from any thread.
class Journal {
 public:
  void Add(std::string entry) {
    const std::lock_guard lock(mutex_);
    entries_.push_back(std::move(entry));
  }
  std::vector<std::string> entries() const {
    const std::lock_guard lock(mutex_);
    return entries_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> entries_;
};

// Opens once, for all.
class Gate {
 public:
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, kPatience, [this] { return open_; })) << "nobody opened the gate";
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

class ScriptWork final : public Work {
 public:
  using StepFunction = std::function<Progress(int step)>;  // step counts from 0

  explicit ScriptWork(StepFunction step) : step_(std::move(step)) {}
  ~ScriptWork() override {
    EXPECT_FALSE(stepping_) << "destroyed during a step";
    if (on_destroy) on_destroy();
  }

  Progress Step() override {
    EXPECT_FALSE(done_) << "stepped after kDone";
    EXPECT_FALSE(aborted_) << "stepped after Abort";
    EXPECT_FALSE(stepping_.exchange(true)) << "two steps at once";
    const Leave leave{stepping_};
    const Progress progress = step_(steps_++);
    if (progress == Progress::kDone) {
      done_ = true;
      end_.set_value(absl::OkStatus());
    }
    return progress;
  }

  void Abort(absl::Status why) override {
    EXPECT_FALSE(done_) << "aborted after kDone";
    EXPECT_FALSE(stepping_) << "aborted during a step";
    EXPECT_FALSE(aborted_.exchange(true)) << "aborted twice";
    EXPECT_FALSE(why.ok());
    if (on_abort) on_abort();
    end_.set_value(std::move(why));
  }

  int steps() const { return steps_; }

  // How it ended: OK after kDone, else Abort's status. Once per work.
  std::future<absl::Status> end() { return end_.get_future(); }

  // Set before Submit.
  std::function<void()> on_abort, on_destroy;

 private:
  struct Leave {
    std::atomic<bool>& stepping;
    ~Leave() { stepping = false; }
  };

  const StepFunction step_;
  std::promise<absl::Status> end_;
  std::atomic<int> steps_ = 0;
  std::atomic<bool> stepping_ = false, done_ = false, aborted_ = false;
};

// The status, or a failure when it does not come.
inline absl::Status Get(std::future<absl::Status>& end) {
  if (end.wait_for(kPatience) != std::future_status::ready) {
    ADD_FAILURE() << "the work did not end";
    return absl::UnknownError("the work did not end");
  }
  return end.get();
}

inline std::shared_ptr<ScriptWork> MakeWork(ScriptWork::StepFunction step) { return std::make_shared<ScriptWork>(std::move(step)); }

}  // namespace fluoroscope::sched
