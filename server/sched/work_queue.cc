#include "sched/work_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fluoroscope::sched {

WorkQueue::WorkQueue(uint64_t share_bytes) : share_bytes_(std::max<uint64_t>(share_bytes, 1)) {}

void WorkQueue::Push(QueuedWork work) {
  auto line = std::find_if(lines_.begin(), lines_.end(), [&](const Line& one) { return one.principal == work.info.principal; });
  if (line == lines_.end()) line = lines_.insert(lines_.end(), Line{.principal = work.info.principal, .works = {}});
  line->works.push_back(std::move(work));
  ++size_;
}

std::optional<QueuedWork> WorkQueue::PopNext(uint64_t free_bytes, uint64_t running_bytes) {
  if (size_ == 0) {
    lines_.clear();  // nobody waited for the turns that were owed
    return std::nullopt;
  }
  for (auto line = lines_.begin(); line != lines_.end();) {
    const auto next = std::next(line);
    if (line->turns_owed > 0) {
      --line->turns_owed;
      lines_.splice(lines_.end(), lines_, line);  // met again at the end of this walk, with one turn less
      line = next == lines_.end() ? std::prev(lines_.end()) : next;
      continue;
    }
    if (line->works.empty()) {
      line = lines_.erase(line);
      continue;
    }
    const uint64_t bytes = line->works.front().info.peak_bytes;
    if (bytes <= free_bytes) {
      QueuedWork work = std::move(line->works.front());
      line->works.pop_front();
      --size_;
      line->turns_owed = bytes / share_bytes_;
      if (line->works.empty() && line->turns_owed == 0) {
        lines_.erase(line);
      } else {
        lines_.splice(lines_.end(), lines_, line);
      }
      return work;
    }
    if (bytes - free_bytes <= running_bytes) return std::nullopt;
    line = next;
  }
  return std::nullopt;
}

uint64_t WorkQueue::LargestBytes() const {
  uint64_t largest = 0;
  for (const Line& line : lines_) {
    for (const QueuedWork& work : line.works) largest = std::max(largest, work.info.peak_bytes);
  }
  return largest;
}

std::vector<QueuedWork> WorkQueue::Remove(const std::function<bool(const QueuedWork&)>& ended) {
  std::vector<QueuedWork> removed;
  for (Line& line : lines_) {
    std::deque<QueuedWork> kept;
    for (QueuedWork& work : line.works) (ended(work) ? removed.emplace_back(std::move(work)) : kept.emplace_back(std::move(work)));
    line.works.swap(kept);
  }
  size_ -= removed.size();
  return removed;
}

Clock::time_point WorkQueue::NextDeadline() const {
  Clock::time_point earliest = Clock::time_point::max();
  for (const Line& line : lines_) {
    for (const QueuedWork& work : line.works) earliest = std::min(earliest, work.info.deadline);
  }
  return earliest;
}

}  // namespace fluoroscope::sched
