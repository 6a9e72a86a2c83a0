#include "sched/running_set.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fluoroscope::sched {

void RunningSet::Admit(QueuedWork work) {
  charged_bytes_ += work.info.peak_bytes;
  std::list<QueuedWork> one;
  one.push_back(std::move(work));
  AddTurns(one, one.begin());
}

void RunningSet::AddTurns(std::list<QueuedWork>& from, std::list<QueuedWork>::iterator work) {
  Lines& lines = Of(work->info.priority);
  auto line = std::find_if(lines.begin(), lines.end(), [&](const Line& one) { return one.principal == work->info.principal; });
  if (line == lines.end()) line = lines.insert(lines.end(), Line{.principal = work->info.principal, .works = {}});
  line->works.splice(line->works.end(), from, work);
  ++runnable_;
}

const RunningSet::Lines& RunningSet::Current() const {
  const Lines& interactive = turns_[static_cast<size_t>(Priority::kInteractive)];
  const Lines& batch = turns_[static_cast<size_t>(Priority::kBatch)];
  if (interactive.empty()) return batch;
  return batch.empty() || interactive_turns_ < kInteractivePerBatch ? interactive : batch;
}

std::list<QueuedWork> RunningSet::EndedTurn() {
  Lines& lines = Current();
  interactive_turns_ = &lines == &Of(Priority::kBatch) ? 0 : std::min(interactive_turns_ + 1, kInteractivePerBatch);
  std::list<QueuedWork> one;
  Line& line = lines.front();
  one.splice(one.end(), line.works, line.works.begin());
  --runnable_;
  if (line.works.empty()) {
    lines.pop_front();
  } else {
    lines.splice(lines.end(), lines, lines.begin());
  }
  return one;
}

void RunningSet::EndTurn() {
  std::list<QueuedWork> one = EndedTurn();
  AddTurns(one, one.begin());
}

void RunningSet::Park() {
  std::list<QueuedWork> one = EndedTurn();
  parked_bytes_ += one.front().info.peak_bytes;
  parked_.splice(parked_.end(), one);
}

QueuedWork RunningSet::TakeFront() { return std::move(EndedTurn().front()); }

void RunningSet::Unpark(const std::unordered_set<const Work*>& works) {
  if (works.empty()) return;
  for (auto parked = parked_.begin(); parked != parked_.end();) {
    const auto next = std::next(parked);
    if (works.contains(parked->work.get())) {
      parked_bytes_ -= parked->info.peak_bytes;
      AddTurns(parked_, parked);
    }
    parked = next;
  }
}

std::vector<QueuedWork> RunningSet::Remove(const std::function<bool(const QueuedWork&)>& ended) {
  std::vector<QueuedWork> removed;
  const auto remove_from = [&](std::list<QueuedWork>& works) {
    const size_t before = removed.size();
    for (auto work = works.begin(); work != works.end();) {
      if (!ended(*work)) {
        ++work;
        continue;
      }
      removed.push_back(std::move(*work));
      work = works.erase(work);
    }
    return removed.size() - before;
  };
  for (Lines& lines : turns_) {
    for (Line& line : lines) runnable_ -= remove_from(line.works);
    lines.remove_if([](const Line& line) { return line.works.empty(); });
  }
  const size_t of_turns = removed.size();
  remove_from(parked_);
  for (size_t i = of_turns; i < removed.size(); ++i) parked_bytes_ -= removed[i].info.peak_bytes;
  return removed;
}

Clock::time_point RunningSet::NextDeadline() const {
  Clock::time_point earliest = Clock::time_point::max();
  const auto look_at = [&](const std::list<QueuedWork>& works) {
    for (const QueuedWork& work : works) earliest = std::min(earliest, work.info.deadline);
  };
  for (const Lines& lines : turns_) {
    for (const Line& line : lines) look_at(line.works);
  }
  look_at(parked_);
  return earliest;
}

}  // namespace fluoroscope::sched
