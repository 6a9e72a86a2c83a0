// One thread that does small things in order: tokenising and planning, so that neither reactors nor the executor wait for them.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace fluoroscope::engine {

// Owns the thread and its bounded queue. Tasks run without the lock held and must not throw.
class TaskThread {
 public:
  explicit TaskThread(size_t max_waiting);
  ~TaskThread();  // Stop()

  // False when the queue is full or the thread has been stopped: the task will not run. Any thread.
  bool Post(std::function<void()> task);

  // Runs what is queued, then ends the thread. Any thread but its own; a second call does nothing.
  void Stop();

 private:
  void Run();

  const size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopped_ = false;                     // guarded by mutex_
  std::thread thread_;
};

}  // namespace fluoroscope::engine
