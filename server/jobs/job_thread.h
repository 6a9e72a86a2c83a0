// The one thread that does what jobs/ does: all of its state belongs to it, the database file included.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace fluoroscope::jobs {

// Owns the thread and its queue, which is not bounded: what is posted are calls, of which the transport limits the number, and pieces of
// result, of which a job has few. Tasks run one at a time, in order, without the lock held, and must not throw.
class JobThread {
 public:
  JobThread();
  ~JobThread();  // runs what is queued (not what is for later), then joins
  JobThread(const JobThread&) = delete;
  JobThread& operator=(const JobThread&) = delete;

  // From any thread, a task included; does not block.
  void Post(std::function<void()> task);
  void PostAfter(std::chrono::milliseconds time, std::function<void()> task);

  // Returns when everything that was posted before has run. Not from a task.
  void Flush();

 private:
  void Loop();

  std::mutex mutex_;  // guards what follows, but for the thread
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  std::multimap<std::chrono::steady_clock::time_point, std::function<void()>> later_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace fluoroscope::jobs
