#include "sched/ledger.h"

#include <algorithm>

#include "sched/refusals.h"

namespace fluoroscope::sched {
namespace {

bool Over(uint64_t held, uint64_t more, uint64_t most) { return most != 0 && (held > most || more > most - held); }

}  // namespace

absl::Status Ledger::MayEnter(const WorkInfo& info) const {
  if (info.is_servers) return absl::OkStatus();
  if (Over(0, info.peak_bytes, limits_.bytes)) return OverQuota(info.peak_bytes, limits_.bytes);
  const auto account = accounts_.find(info.principal);
  if (account == accounts_.end() || !Over(account->second.in_flight, 1, limits_.in_flight)) return absl::OkStatus();
  return TooManyInFlight(account->second.in_flight, limits_.in_flight);
}

void Ledger::Enter(const WorkInfo& info) {
  if (!info.is_servers) ++accounts_[info.principal].in_flight;
}

bool Ledger::MayRun(const WorkInfo& info, uint64_t reserved_bytes) const {
  if (info.is_servers) return true;
  if (info.priority == Priority::kBatch && batch_running_ > 0) {
    const uint64_t narrowed = std::min(limits_.batch_bytes, reserved_bytes / 2);
    if (Over(batch_running_, 1, limits_.batch_running) || Over(batch_bytes_ + narrowed, info.peak_bytes, limits_.batch_bytes)) return false;
  }
  const Account& account = accounts_.at(info.principal);
  return !Over(account.running, 1, limits_.running) && !Over(account.bytes, info.peak_bytes, limits_.bytes);
}

void Ledger::Run(const WorkInfo& info) {
  if (info.is_servers) return;
  Account& account = accounts_.at(info.principal);
  ++account.running;
  account.bytes += info.peak_bytes;
  if (info.priority != Priority::kBatch) return;
  ++batch_running_;
  batch_bytes_ += info.peak_bytes;
}

void Ledger::Leave(const QueuedWork& work) {
  const WorkInfo& info = work.info;
  if (info.is_servers) return;
  const auto account = accounts_.find(info.principal);
  if (work.admitted) {
    --account->second.running;
    account->second.bytes -= info.peak_bytes;
    if (info.priority == Priority::kBatch) {
      --batch_running_;
      batch_bytes_ -= info.peak_bytes;
    }
  }
  if (--account->second.in_flight == 0) accounts_.erase(account);
}

}  // namespace fluoroscope::sched
