#include "sched/roster.h"

#include <algorithm>

namespace fluoroscope::sched {

void Roster::Enter(const QueuedWork& work) {
  const WorkInfo& info = work.info;
  if (info.is_servers) return;
  entries_.push_back({work.work.get(), {info.principal, info.priority, false, work.arrived, info.peak_bytes, info.flops}});
}

void Roster::Run(const Work* work) {
  for (Entry& entry : entries_) {
    if (entry.work == work) entry.view.running = true;
  }
}

void Roster::Leave(const Work* work) {
  const auto entry = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& one) { return one.work == work; });
  if (entry == entries_.end()) return;
  entries_.erase(entry);
  ++finished_;
}

std::vector<WorkView> Roster::works() const {
  std::vector<WorkView> works;
  for (const bool running : {true, false}) {
    for (const Entry& entry : entries_) {
      if (entry.view.running == running) works.push_back(entry.view);
    }
  }
  return works;
}

}  // namespace fluoroscope::sched
