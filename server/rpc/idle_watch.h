// The thread that ends calls whose client has gone silent.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace fluoroscope::rpc {

// Something that must not stay idle.
class Watched {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  virtual ~Watched() = default;
  // Ends it when it has been idle for too long. When to look again; TimePoint::max() when that is never. On the watch's thread, no lock
  // held.
  virtual TimePoint LookIfIdle(TimePoint now) = 0;
};

// Owns one thread, which sleeps while nothing is watched, else until the first of them may have become idle.
class IdleWatch {
 public:
  IdleWatch();
  ~IdleWatch();  // joins; nothing is ended any more
  IdleWatch(const IdleWatch&) = delete;
  IdleWatch& operator=(const IdleWatch&) = delete;

  // From any thread. Watched as long as somebody else holds it, first looked at not before `due`.
  void Add(std::weak_ptr<Watched> watched, Watched::TimePoint due);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::multimap<Watched::TimePoint, std::weak_ptr<Watched>> due_;  // when each is looked at; guarded by mutex_
  bool stopping_ = false;                                          // guarded by mutex_
  std::thread thread_;                                             // last: starts when the rest is there
};

}  // namespace fluoroscope::rpc
