// LibTorch throws; the rest of the server returns absl::Status. This is the border between the two.
#pragma once

#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fluoroscope::tensor {

// What the exception being handled means: RESOURCE_EXHAUSTED for memory (the cap's message has both numbers), else INTERNAL with the
// first line of its message, without backtrace and source paths. Call only inside a catch block.
absl::Status StatusOfCurrentException() noexcept;

namespace internal {
template <typename T>
struct GuardResult {
  using Type = absl::StatusOr<T>;
};
template <>
struct GuardResult<void> {
  using Type = absl::Status;
};
template <>
struct GuardResult<absl::Status> {
  using Type = absl::Status;
};
template <typename T>
struct GuardResult<absl::StatusOr<T>> {
  using Type = absl::StatusOr<T>;
};
}  // namespace internal

// Calls f() and turns what it throws into a status. f may return nothing or a Status (the result is a Status), a T or a StatusOr<T> (the
// result is a StatusOr<T>). Tensors made inside are freed when the exception unwinds, so the process goes on as before.
//   absl::StatusOr<at::Tensor> product = GuardTorch([&] { return at::matmul(a, b); });
template <typename F>
typename internal::GuardResult<std::invoke_result_t<F>>::Type GuardTorch(F&& f) {
  try {
    if constexpr (std::is_void_v<std::invoke_result_t<F>>) {
      std::forward<F>(f)();
      return absl::OkStatus();
    } else {
      return std::forward<F>(f)();
    }
  } catch (...) {
    return StatusOfCurrentException();
  }
}

}  // namespace fluoroscope::tensor
