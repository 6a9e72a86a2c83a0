#include "jobs/job_thread.h"

#include <future>
#include <utility>

namespace fluoroscope::jobs {

using Clock = std::chrono::steady_clock;

JobThread::JobThread() : thread_([this] { Loop(); }) {}

JobThread::~JobThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void JobThread::Post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void JobThread::PostAfter(std::chrono::milliseconds time, std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    later_.emplace(Clock::now() + time, std::move(task));
  }
  wake_.notify_one();
}

void JobThread::Flush() {
  std::promise<void> reached;
  Post([&] { reached.set_value(); });
  reached.get_future().wait();
}

void JobThread::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    for (auto due = later_.begin(); due != later_.end() && due->first <= Clock::now(); due = later_.erase(due))
      tasks_.push_back(std::move(due->second));
    if (!tasks_.empty()) {
      {
        const std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        lock.unlock();
        task();
      }  // destroyed without the lock: it may own much
      lock.lock();
    } else if (stopping_) {
      return;
    } else if (later_.empty()) {
      wake_.wait(lock);
    } else {
      wake_.wait_until(lock, later_.begin()->first);
    }
  }
}

}  // namespace fluoroscope::jobs
