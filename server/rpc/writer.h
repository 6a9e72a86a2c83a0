// The thread that starts writes on idle streams, so that the executor never does a socket's work.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace fluoroscope::rpc {

// Owns one thread that runs short tasks in order. While a stream has more to send, gRPC's own threads go on by themselves; the task here
// only gets a stream going that had nothing to send.
class Writer {
 public:
  Writer();
  ~Writer();  // runs what is queued, then joins
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // From any thread; does not block. The task must not throw.
  void Post(std::function<void()> task);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace fluoroscope::rpc
