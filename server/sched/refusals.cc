#include "sched/refusals.h"

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"

namespace fluoroscope::sched {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Status QueueFull(size_t waiting, size_t max_waiting) {
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue is full: ", waiting, " requests are waiting and at most ", max_waiting, " may; try again later"));
}

absl::Status OverBudget(uint64_t needed_bytes, uint64_t budget_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("this request needs ", FormatBytes(needed_bytes), " (", needed_bytes,
                                                   " bytes) of memory at its peak and the server's budget is ", FormatBytes(budget_bytes),
                                                   " (", budget_bytes, " bytes); ask for fewer prompts, positions or captures at a time"));
}

absl::Status OverReserved(uint64_t needed_bytes, uint64_t budget_bytes, uint64_t reserved_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("this request needs ", FormatBytes(needed_bytes), " (", needed_bytes,
                                                   " bytes) of memory at its peak; of the server's budget of ", FormatBytes(budget_bytes),
                                                   " (", budget_bytes, " bytes) handles hold ", FormatBytes(reserved_bytes), " (",
                                                   reserved_bytes, " bytes) at present. Delete handles, or ask for less at a time"));
}

absl::Status NoRoom(uint64_t wanted_bytes, uint64_t free_bytes, uint64_t budget_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat(FormatBytes(wanted_bytes), " (", wanted_bytes,
                                                   " bytes) of memory are wanted, and of the server's budget of ",
                                                   FormatBytes(budget_bytes), " (", budget_bytes, " bytes) runs and handles leave ",
                                                   FormatBytes(free_bytes), " (", free_bytes, " bytes) at present; try again later"));
}

absl::Status TooManyInFlight(size_t in_flight, size_t most) {
  return absl::ResourceExhaustedError(absl::StrCat("this caller has ", in_flight, " requests waiting or running and may have at most ",
                                                   most, " (limits.max_in_flight_per_principal); wait for some of them"));
}

absl::Status OverQuota(uint64_t needed_bytes, uint64_t quota_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("this request needs ", FormatBytes(needed_bytes), " (", needed_bytes,
                                                   " bytes) of memory at its peak and each caller may use ", FormatBytes(quota_bytes), " (",
                                                   quota_bytes, " bytes; limits.memory_mib_per_principal)"));
}

absl::Status Draining() { return absl::UnavailableError("the server is shutting down; try again later or elsewhere"); }

absl::Status StepThrew(std::string_view what) { return absl::InternalError(absl::StrCat("the run failed unexpectedly: ", View(what))); }

absl::Status StillWanted(const WorkInfo& info, Clock::time_point now, std::string_view state) {
  if (info.cancel.cancelled()) return absl::CancelledError(absl::StrCat("the request was cancelled while ", View(state)));
  if (now >= info.deadline) return absl::DeadlineExceededError(absl::StrCat("the deadline passed while ", View(state)));
  return absl::OkStatus();
}

}  // namespace fluoroscope::sched
