#include "tensor/chunk.h"

#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "tensor/dtype.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::tensor {

absl::StatusOr<api::Chunk> ToChunk(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != at::kStrided) return absl::InvalidArgumentError("only dense tensors can be sent");
  FS_ASSIGN_OR_RETURN(const api::DType dtype, ToApiDType(tensor.scalar_type()));
  return GuardTorch([&] {
    auto owner = std::make_shared<const at::Tensor>(tensor.detach().to(at::kCPU).contiguous());
    const auto* bytes = static_cast<const std::byte*>(owner->const_data_ptr());
    return api::Chunk{dtype, owner->sizes().vec(), {bytes, owner->nbytes()}, owner};
  });
}

absl::StatusOr<at::Tensor> FromChunk(const api::Chunk& chunk) {
  int64_t bytes = static_cast<int64_t>(api::SizeOf(chunk.dtype));
  for (const int64_t size : chunk.shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) {
      return absl::InvalidArgumentError(absl::StrCat("a tensor cannot have the shape [", absl::StrJoin(chunk.shape, ", "), "]"));
    }
  }
  if (static_cast<uint64_t>(bytes) != chunk.bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a tensor of ", std::string(api::NameOf(chunk.dtype)), " with shape [",
                                                   absl::StrJoin(chunk.shape, ", "), "] has ", bytes, " bytes, but ", chunk.bytes.size(),
                                                   " were given"));
  }
  return GuardTorch([&] {
    at::Tensor tensor = at::empty(chunk.shape, at::dtype(ToScalarType(chunk.dtype)));
    if (bytes > 0) std::memcpy(tensor.mutable_data_ptr(), chunk.bytes.data(), chunk.bytes.size());
    return tensor;
  });
}

}  // namespace fluoroscope::tensor
