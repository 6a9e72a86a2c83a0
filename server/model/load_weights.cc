#include "model/load_weights.h"

#include <algorithm>
#include <cstring>

#include "base/status_macros.h"

namespace fluoroscope::model {

bool WeightReader::Has(const std::string& name) const { return checkpoint_.Has(prefix_ + name); }

absl::Status WeightReader::GoOn() const {
  if (progress_ != nullptr && progress_->cancel.cancelled()) return absl::CancelledError("the load was cancelled");
  return absl::OkStatus();
}

absl::Status WeightReader::Read(const std::string& name, const at::Tensor& out) const {
  if (taken_ != nullptr) taken_->insert(name);
  if (out.is_meta()) return checkpoint_.Check(name, out.sizes());
  FS_RETURN_IF_ERROR(GoOn());
  const at::Tensor host = out.is_cpu() ? out : at::empty(out.sizes(), out.options().device(at::kCPU));
  FS_RETURN_IF_ERROR(checkpoint_.LoadInto(name, host));
  if (!host.is_same(out)) out.copy_(host);
  if (progress_ != nullptr) progress_->done_bytes += out.nbytes();
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> WeightReader::Tensor(const std::string& name, at::IntArrayRef shape) const {
  FS_RETURN_IF_ERROR(checkpoint_.Check(prefix_ + name, shape));  // a wrong configuration's shape may be too large for any tensor
  const at::Tensor tensor = arena_.Take(shape, dtype_);
  FS_RETURN_IF_ERROR(Read(prefix_ + name, tensor));
  return tensor;
}

absl::StatusOr<NormWeights> WeightReader::Norm(const std::string& name, int64_t size, bool bias) const {
  NormWeights norm;
  FS_ASSIGN_OR_RETURN(norm.weight, Tensor(name + ".weight", {size}));
  if (bias) {
    FS_ASSIGN_OR_RETURN(norm.bias, Tensor(name + ".bias", {size}));
  }
  return norm;
}

absl::StatusOr<Linear> WeightReader::FusedLinear(const std::vector<Part>& parts, int64_t in, bool bias) const {
  int64_t out = 0;
  for (const Part& part : parts) {
    out += part.out;
    FS_RETURN_IF_ERROR(checkpoint_.Check(prefix_ + part.name + ".weight", {part.out, in}));
  }
  Linear linear;
  linear.weight = arena_.Take({out, in}, dtype_);
  if (bias) linear.bias = arena_.Take({out}, dtype_);
  int64_t row = 0;
  for (const Part& part : parts) {
    FS_RETURN_IF_ERROR(Read(prefix_ + part.name + ".weight", linear.weight.narrow(0, row, part.out)));
    if (bias) FS_RETURN_IF_ERROR(Read(prefix_ + part.name + ".bias", linear.bias.narrow(0, row, part.out)));
    row += part.out;
  }
  return linear;
}

absl::StatusOr<Linear> WeightReader::TransposedLinear(const std::string& name, int64_t out, int64_t in, bool bias) const {
  FS_RETURN_IF_ERROR(checkpoint_.Check(prefix_ + name + ".weight", {in, out}));
  Linear linear;
  linear.weight = arena_.Take({out, in}, dtype_);
  const at::Device host = linear.weight.is_meta() ? at::kMeta : at::kCPU;
  const at::Tensor stored = at::empty({in, out}, at::TensorOptions().dtype(dtype_).device(host));
  FS_RETURN_IF_ERROR(Read(prefix_ + name + ".weight", stored));
  linear.weight.copy_(stored.t());
  if (bias) {
    FS_ASSIGN_OR_RETURN(linear.bias, Tensor(name + ".bias", {out}));
  }
  return linear;
}

absl::Status WeightReader::CheckCopy(const std::string& name, const std::string& original) const {
  if (taken_ != nullptr) taken_->insert(prefix_ + name);
  FS_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, checkpoint_.ShapeOf(original));
  FS_RETURN_IF_ERROR(checkpoint_.Check(prefix_ + name, shape));
  if (!arena_.has_memory()) return absl::OkStatus();
  FS_ASSIGN_OR_RETURN(const at::Tensor copy, checkpoint_.View(prefix_ + name));
  FS_ASSIGN_OR_RETURN(const at::Tensor wanted, checkpoint_.View(original));
  bool same = copy.scalar_type() == wanted.scalar_type();
  constexpr size_t kPiece = 16 << 20;
  for (size_t begin = 0; same && begin < copy.nbytes(); begin += kPiece) {
    FS_RETURN_IF_ERROR(GoOn());
    const size_t size = std::min(kPiece, copy.nbytes() - begin);
    same = std::memcmp(static_cast<const char*>(copy.const_data_ptr()) + begin, static_cast<const char*>(wanted.const_data_ptr()) + begin,
                       size) == 0;
  }
  if (same) return absl::OkStatus();
  return absl::InvalidArgumentError("tensor \"" + prefix_ + name + "\" differs from \"" + original + "\"");
}

absl::StatusOr<Linear> ReadUnembedding(const Architecture& arch, const at::Tensor& embed, const WeightReader& body,
                                       const std::string& embed_name, const WeightReader& top) {
  const std::string name = "lm_head.weight";
  Linear unembed;
  if (!arch.tied_unembedding) {
    FS_ASSIGN_OR_RETURN(unembed.weight, top.Tensor(name, {arch.vocabulary, arch.d_model}));
    return unembed;
  }
  if (top.Has(name)) {
    if (const absl::Status status = top.CheckCopy(name, body.FullName(embed_name)); !status.ok()) {
      if (!absl::IsInvalidArgument(status)) return status;
      return absl::Status(status.code(), std::string(status.message()) +
                                             "; config.json's tie_word_embeddings (which may be a default) says that both are one matrix");
    }
  }
  unembed.weight = embed;
  return unembed;
}

}  // namespace fluoroscope::model
