// What the executor has admitted: whose turn it is, who is parked, and the bytes they are charged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <unordered_set>
#include <vector>

#include "sched/queued_work.h"

namespace fluoroscope::sched {

// Owns the admitted works and the account of their bytes. A work is charged from Admit until Release: its bytes may well be in use until
// it has been destroyed, so taking it out does not give them back.
// Used by the executor's thread only.
class RunningSet {
 public:
  void Admit(QueuedWork work);

  // The work whose turn it is; needs runnable() > 0. One of the three that follow ends its turn.
  const QueuedWork& Front() const { return turns_.front(); }
  void EndTurn();          // kMore: to the back
  void Park();             // kBlocked: no turns until Unpark
  QueuedWork TakeFront();  // kDone

  // Gives turns again to those of `works` that are parked.
  void Unpark(const std::unordered_set<const Work*>& works);

  // Takes out every work, parked or not, for which `ended` holds.
  std::vector<QueuedWork> Remove(const std::function<bool(const QueuedWork&)>& ended);

  // Gives back the bytes of a work that was taken out.
  void Release(uint64_t bytes) { charged_bytes_ -= bytes; }

  size_t runnable() const { return turns_.size(); }
  uint64_t charged_bytes() const { return charged_bytes_; }
  uint64_t parked_bytes() const { return parked_bytes_; }
  Clock::time_point NextDeadline() const;

 private:
  std::list<QueuedWork> turns_;  // in order of their turns
  std::list<QueuedWork> parked_;
  uint64_t charged_bytes_ = 0;
  uint64_t parked_bytes_ = 0;  // the part of charged_bytes_ that will not come back before somebody reads
};

}  // namespace fluoroscope::sched
