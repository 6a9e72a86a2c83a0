// Why a work ends without a result, in words for the person who sent the request. One place, so that every message has both numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "sched/queued_work.h"

namespace fluoroscope::sched {

absl::Status QueueFull(size_t waiting, size_t max_waiting);             // RESOURCE_EXHAUSTED
absl::Status OverBudget(uint64_t needed_bytes, uint64_t budget_bytes);  // RESOURCE_EXHAUSTED
// RESOURCE_EXHAUSTED: what handles hold is in the way.
absl::Status OverReserved(uint64_t needed_bytes, uint64_t budget_bytes, uint64_t reserved_bytes);
absl::Status NoRoom(uint64_t wanted_bytes, uint64_t free_bytes, uint64_t budget_bytes);
absl::Status TooManyInFlight(size_t in_flight, size_t most);          // RESOURCE_EXHAUSTED: of one principal
absl::Status OverQuota(uint64_t needed_bytes, uint64_t quota_bytes);  // RESOURCE_EXHAUSTED: a principal's
absl::Status Draining();                                              // UNAVAILABLE
absl::Status StepThrew(std::string_view what);                        // INTERNAL

// OK while somebody still wants the result; else CANCELLED or DEADLINE_EXCEEDED, with `state` ("waiting in the queue") for the message.
absl::Status StillWanted(const WorkInfo& info, Clock::time_point now, std::string_view state);

}  // namespace fluoroscope::sched
