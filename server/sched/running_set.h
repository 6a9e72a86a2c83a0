// What the executor has admitted: whose turn it is, who is parked, and the bytes they are charged.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <unordered_set>
#include <vector>

#include "sched/queued_work.h"

namespace fluoroscope::sched {

// Owns the admitted works and the account of their bytes. Principals take turns, and so do the works of each, so that many works of one
// principal get no more turns than another's one. Interactive works have the turns, but every fifth (after kInteractivePerBatch) is a batch
// work's. A work is charged from Admit until Release: its bytes may well be in use until it has been destroyed, so taking it out does not
// give them back.
// Used by the executor's thread only.
class RunningSet {
 public:
  static constexpr int kInteractivePerBatch = 4;

  void Admit(QueuedWork work);

  // The work whose turn it is; needs runnable() > 0. One of the three that follow ends its turn.
  const QueuedWork& Front() const { return Current().front().works.front(); }
  void EndTurn();          // kMore: to the back
  void Park();             // kBlocked: no turns until Unpark
  QueuedWork TakeFront();  // kDone

  // Gives turns again to those of `works` that are parked.
  void Unpark(const std::unordered_set<const Work*>& works);

  // Takes out every work, parked or not, for which `ended` holds.
  std::vector<QueuedWork> Remove(const std::function<bool(const QueuedWork&)>& ended);

  // Gives back the bytes of a work that was taken out.
  void Release(uint64_t bytes) { charged_bytes_ -= bytes; }

  size_t runnable() const { return runnable_; }
  uint64_t charged_bytes() const { return charged_bytes_; }
  uint64_t parked_bytes() const { return parked_bytes_; }
  Clock::time_point NextDeadline() const;

 private:
  struct Line {  // of one principal; never empty
    std::string principal;
    std::list<QueuedWork> works;  // in order of their turns
  };
  using Lines = std::list<Line>;  // in order of their turns

  std::list<Line>& Of(Priority priority) { return turns_[static_cast<size_t>(priority)]; }
  const Lines& Current() const;
  Lines& Current() { return const_cast<Lines&>(static_cast<const RunningSet*>(this)->Current()); }
  void AddTurns(std::list<QueuedWork>& from, std::list<QueuedWork>::iterator work);
  // The front work is taken out, and its line goes to the back.
  std::list<QueuedWork> EndedTurn();

  std::array<Lines, 2> turns_;  // by priority
  std::list<QueuedWork> parked_;
  size_t runnable_ = 0;
  int interactive_turns_ = 0;  // since a batch work had one
  uint64_t charged_bytes_ = 0;
  uint64_t parked_bytes_ = 0;  // the part of charged_bytes_ that will not come back before somebody reads
};

}  // namespace fluoroscope::sched
