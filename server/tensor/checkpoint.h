// The weights of a Hugging Face model directory: `model.safetensors`, or `model.safetensors.index.json` with its shards.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"

namespace fluoroscope::tensor {

// Owns the mapped files. Opening checks every header completely (safetensors_header.h), so that reading tensors afterwards cannot leave a
// file. Move-only. The const methods may be called from any thread. Bad checkpoints give INVALID_ARGUMENT, missing files and tensors
// NOT_FOUND, pickled weights FAILED_PRECONDITION; the message names the file and the tensor.
class Checkpoint {
 public:
  static absl::StatusOr<Checkpoint> Open(const std::string& directory);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  bool Has(const std::string& name) const;
  // All tensors of the files, sorted; also those of a shard that the index leaves out, which Has and Load do not know.
  std::vector<std::string> names() const;

  // The shape in the file; NOT_FOUND as in Load.
  absl::StatusOr<std::vector<int64_t>> ShapeOf(const std::string& name) const;

  // The tensor as the file holds it, any dtype that LibTorch has, without a copy (unless the file has it at an odd address). Its memory is
  // the mapping, kept alive by the tensor itself: read it, never write into it (SIGSEGV).
  absl::StatusOr<at::Tensor> View(const std::string& name) const;

  // Whether Load would find the tensor as it wants it: F32, F16 or BF16, in exactly this shape. For callers that take memory for several
  // tensors at once.
  absl::Status Check(const std::string& name, at::IntArrayRef expected_shape) const;

  // A fresh CPU tensor of `dtype` (F32, F16, BF16 or F64) with the file's values. The file must hold F32, F16 or BF16, in exactly
  // `expected_shape`; else an error with the expected and the found shape or dtype. Uses one thread, whatever LibTorch's thread count is.
  absl::StatusOr<at::Tensor> Load(const std::string& name, at::IntArrayRef expected_shape, at::ScalarType dtype) const;

  // The same into existing memory, such as a part of a fused matrix: `out` is a contiguous floating CPU tensor of the expected shape.
  absl::Status LoadInto(const std::string& name, at::Tensor out) const;

  // "__metadata__" of all files; on a clash the first file's wins.
  const std::map<std::string, std::string>& metadata() const;

  // Bytes of all tensors that Load knows, in the file's dtypes.
  uint64_t tensor_bytes() const;

  // Lower-case hex SHA-256 of the weight files' bytes, one file after the other in the order of their names: what
  // `cat *.safetensors | sha256sum` prints. Computed at the first call (about half a second a gigabyte), then kept. CANCELLED
  // soon after `cancel` is set.
  absl::StatusOr<std::string> sha256(const CancelToken& cancel = {}) const;

  // Gives the mapped pages back (MappedFile::DropPages); call when everything is loaded.
  void DropPages() const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fluoroscope::tensor
