#include "tensor/device.h"

#include <dlfcn.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::tensor {

absl::StatusOr<at::Device> ParseDevice(std::string_view name) {
  if (name == "cpu") return at::Device(at::kCPU);
  constexpr std::string_view kCuda = "cuda:";
  if (name.starts_with(kCuda)) {
    const std::string digits(name.substr(kCuda.size()));
    int index = -1;
    // Digits only: SimpleAtoi would also take spaces and a sign.
    if (!digits.empty() && digits.size() <= 3 && digits.find_first_not_of("0123456789") == std::string::npos &&
        absl::SimpleAtoi(digits, &index) && index < 128) {
      return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown device \"", std::string(name), "\"; allowed are \"cpu\" and \"cuda:N\" with N from 0 to 127"));
}

absl::StatusOr<at::Device> OpenDevice(std::string_view name) {
  FS_ASSIGN_OR_RETURN(const at::Device device, ParseDevice(name));
  if (device.is_cpu()) return device;
  // Never closed: the back end stays registered for the rest of the process.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    const char* reason = dlerror();
    return absl::FailedPreconditionError(absl::StrCat(
        "device ", std::string(name), ": cannot open LibTorch's CUDA library: ", reason != nullptr ? reason : "unknown reason"));
  }
  const absl::Status usable = GuardTorch([&] { at::zeros({1}, at::device(device)); });
  if (!usable.ok()) return absl::FailedPreconditionError(absl::StrCat("device ", std::string(name), " cannot be used: ", usable.message()));
  return device;
}

}  // namespace fluoroscope::tensor
