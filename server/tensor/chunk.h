// LibTorch tensors to and from the bytes at the server's boundary.
#pragma once

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "api/tensor.h"

namespace fluoroscope::tensor {

// The tensor's values as a Chunk. Copies only where needed: from another device, or to make it contiguous. Otherwise the chunk shares the
// tensor's storage and keeps all of it alive, so give a slice of something much bigger as a clone; and nobody may write into it afterwards.
// INVALID_ARGUMENT for a dtype the wire does not have, RESOURCE_EXHAUSTED when a copy goes over the memory cap.
absl::StatusOr<api::Chunk> ToChunk(const at::Tensor& tensor);

// A fresh CPU tensor with the chunk's values. INVALID_ARGUMENT when shape and number of bytes disagree.
absl::StatusOr<at::Tensor> FromChunk(const api::Chunk& chunk);

}  // namespace fluoroscope::tensor
