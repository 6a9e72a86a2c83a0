#include "sched/work_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fluoroscope::sched {

WorkQueue::WorkQueue(uint64_t share_bytes, double share_flops)
    : share_bytes_(std::max<uint64_t>(share_bytes, 1)), share_flops_(share_flops) {}

void WorkQueue::Push(QueuedWork work) {
  Class& to = Of(work.info.priority);
  auto line = std::find_if(to.lines.begin(), to.lines.end(), [&](const Line& one) { return one.principal == work.info.principal; });
  if (line == to.lines.end()) line = to.lines.insert(to.lines.end(), Line{.principal = work.info.principal, .works = {}});
  line->works.push_back(std::move(work));
  ++to.size;
}

uint64_t WorkQueue::TurnsFor(const WorkInfo& info) const {
  constexpr double kMostTurns = 1 << 20;  // more are as good as for ever, and a double may be more than an integer can hold
  const double by_flops = share_flops_ > 0 ? std::min(info.flops / share_flops_, kMostTurns) : 0;
  return std::max(info.peak_bytes / share_bytes_, static_cast<uint64_t>(by_flops));
}

std::optional<QueuedWork> WorkQueue::PopNext(uint64_t free_bytes, uint64_t running_bytes, const MayRun& may_run) {
  Class& interactive = Of(Priority::kInteractive);
  Class& batch = Of(Priority::kBatch);
  if (batch.size == 0) passed_ = 0;
  if (batch.size > 0 && passed_ >= kInteractivePerBatch) {
    Popped popped = PopFrom(batch, free_bytes, running_bytes, may_run);
    if (popped.work) passed_ = 0;
    if (popped.work || (popped.waits && passed_ >= kMostPassed)) return std::move(popped.work);
  }
  Popped popped = PopFrom(interactive, free_bytes, running_bytes, may_run);
  if (popped.work && batch.size > 0) passed_ = std::min(passed_ + 1, kMostPassed);
  if (popped.work || popped.waits) return std::move(popped.work);
  popped = PopFrom(batch, free_bytes, running_bytes, may_run);
  if (popped.work) passed_ = 0;
  return std::move(popped.work);
}

WorkQueue::Popped WorkQueue::PopFrom(Class& from, uint64_t free_bytes, uint64_t running_bytes, const MayRun& may_run) {
  std::list<Line>& lines = from.lines;
  if (from.size == 0) {
    lines.clear();  // nobody waited for the turns that were owed
    return {};
  }
  for (auto line = lines.begin(); line != lines.end();) {
    const auto next = std::next(line);
    if (line->turns_owed > 0) {
      --line->turns_owed;
      lines.splice(lines.end(), lines, line);  // met again at the end of this walk, with one turn less
      line = next == lines.end() ? std::prev(lines.end()) : next;
      continue;
    }
    if (line->works.empty()) {
      line = lines.erase(line);
      continue;
    }
    const WorkInfo& info = line->works.front().info;
    if (may_run && !may_run(info)) {
      line = next;
      continue;
    }
    const uint64_t bytes = info.peak_bytes;
    if (bytes <= free_bytes) {
      line->turns_owed = TurnsFor(info);
      QueuedWork work = std::move(line->works.front());
      line->works.pop_front();
      --from.size;
      if (line->works.empty() && line->turns_owed == 0) {
        lines.erase(line);
      } else {
        lines.splice(lines.end(), lines, line);
      }
      return {.work = std::move(work)};
    }
    if (bytes - free_bytes <= running_bytes) return {.work = std::nullopt, .waits = true};
    line = next;
  }
  return {};
}

uint64_t WorkQueue::LargestBytes() const {
  uint64_t largest = 0;
  for (const Class& each : classes_) {
    for (const Line& line : each.lines) {
      for (const QueuedWork& work : line.works) largest = std::max(largest, work.info.peak_bytes);
    }
  }
  return largest;
}

std::vector<QueuedWork> WorkQueue::Remove(const std::function<bool(const QueuedWork&)>& ended) {
  std::vector<QueuedWork> removed;
  for (Class& each : classes_) {
    const size_t before = removed.size();
    for (Line& line : each.lines) {
      std::deque<QueuedWork> kept;
      for (QueuedWork& work : line.works) (ended(work) ? removed.emplace_back(std::move(work)) : kept.emplace_back(std::move(work)));
      line.works.swap(kept);
    }
    each.size -= removed.size() - before;
  }
  return removed;
}

Clock::time_point WorkQueue::NextDeadline() const {
  Clock::time_point earliest = Clock::time_point::max();
  for (const Class& each : classes_) {
    for (const Line& line : each.lines) {
      for (const QueuedWork& work : line.works) earliest = std::min(earliest, work.info.deadline);
    }
  }
  return earliest;
}

}  // namespace fluoroscope::sched
