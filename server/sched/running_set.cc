#include "sched/running_set.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fluoroscope::sched {

void RunningSet::Admit(QueuedWork work) {
  charged_bytes_ += work.info.peak_bytes;
  turns_.push_back(std::move(work));
}

void RunningSet::EndTurn() { turns_.splice(turns_.end(), turns_, turns_.begin()); }

void RunningSet::Park() {
  parked_bytes_ += turns_.front().info.peak_bytes;
  parked_.splice(parked_.end(), turns_, turns_.begin());
}

QueuedWork RunningSet::TakeFront() {
  QueuedWork work = std::move(turns_.front());
  turns_.pop_front();
  return work;
}

void RunningSet::Unpark(const std::unordered_set<const Work*>& works) {
  if (works.empty()) return;
  for (auto parked = parked_.begin(); parked != parked_.end();) {
    const auto next = std::next(parked);
    if (works.contains(parked->work.get())) {
      parked_bytes_ -= parked->info.peak_bytes;
      turns_.splice(turns_.end(), parked_, parked);
    }
    parked = next;
  }
}

std::vector<QueuedWork> RunningSet::Remove(const std::function<bool(const QueuedWork&)>& ended) {
  std::vector<QueuedWork> removed;
  for (std::list<QueuedWork>* works : {&turns_, &parked_}) {
    for (auto work = works->begin(); work != works->end();) {
      if (!ended(*work)) {
        ++work;
        continue;
      }
      if (works == &parked_) parked_bytes_ -= work->info.peak_bytes;
      removed.push_back(std::move(*work));
      work = works->erase(work);
    }
  }
  return removed;
}

Clock::time_point RunningSet::NextDeadline() const {
  Clock::time_point earliest = Clock::time_point::max();
  for (const std::list<QueuedWork>* works : {&turns_, &parked_}) {
    for (const QueuedWork& work : *works) earliest = std::min(earliest, work.info.deadline);
  }
  return earliest;
}

}  // namespace fluoroscope::sched
