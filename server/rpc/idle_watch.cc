#include "rpc/idle_watch.h"

#include <utility>

namespace fluoroscope::rpc {

IdleWatch::IdleWatch() : thread_([this] { Loop(); }) {}

IdleWatch::~IdleWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void IdleWatch::Add(std::weak_ptr<Watched> watched, Watched::TimePoint due) {
  {
    const std::lock_guard lock(mutex_);
    const bool is_first = due_.empty() || due < due_.begin()->first;
    due_.emplace(due, std::move(watched));
    if (!is_first) return;
  }
  wake_.notify_one();
}

void IdleWatch::Loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (due_.empty()) {
      wake_.wait(lock);
      continue;
    }
    const auto first = due_.begin();
    const Watched::TimePoint now = std::chrono::steady_clock::now(), due = first->first;
    if (due > now) {
      wake_.wait_until(lock, due);
      continue;
    }
    const std::weak_ptr<Watched> watched = std::move(first->second);
    due_.erase(first);
    lock.unlock();
    Watched::TimePoint again = Watched::TimePoint::max();
    if (const std::shared_ptr<Watched> alive = watched.lock(); alive != nullptr) again = alive->LookIfIdle(now);
    lock.lock();
    if (again != Watched::TimePoint::max()) due_.emplace(again, watched);
  }
}

}  // namespace fluoroscope::rpc
