// The device named in the configuration.
#pragma once

#include <string_view>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"

namespace fluoroscope::tensor {

// "cpu" or "cuda:N"; INVALID_ARGUMENT for anything else. Touches no device.
absl::StatusOr<at::Device> ParseDevice(std::string_view name);

// ParseDevice, and for CUDA also opens LibTorch's CUDA library, which registers the back end, and checks that the device is there.
// Call it before anything else of LibTorch in the process: a back end registered later is not seen. FAILED_PRECONDITION with the reason
// when there is no such device or no driver. The CUDA path has been tried only as far as this error: there was no GPU to try it on.
absl::StatusOr<at::Device> OpenDevice(std::string_view name);

}  // namespace fluoroscope::tensor
