#include "run/gradient_run_peak.h"

#include <algorithm>
#include <map>

#include "model/line_kernels.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;
using model::Site;

// Memory of a block that values lie in, several of them in one where they are views of it.
enum class Storage { kResidual, kQkv, kRotQ, kRotK, kScores, kPattern, kZ, kResult, kAttnOut, kMid, kPre, kPost, kMlpOut, kNorm1, kNorm2 };

class Block {
 public:
  Block(const model::Model& model, const GradientShape& shape)
      : arch_(model.arch),
        shape_(shape),
        size_(static_cast<int64_t>(c10::elementSize(model.dtype))),
        // Without kernels of our own, LibTorch's operations keep more.
        plain_(!model::HasLineKernels(model.device, model.dtype)),
        rotary_(arch_.positions == model::PositionScheme::kRotary),
        explicit_(Reads(Site::kPattern) || Reads(Site::kAttnScores)),
        inside_mlp_(Reads(Site::kMlpPre) || Reads(Site::kMlpPreLinear)) {}

  // Of the values of `sites`, and of the keys and values that others may share.
  int64_t Values() const { return Sum(ValueStorages()); }

  // Values, and what the operations keep for their backward pass.
  int64_t WithGraph() const {
    std::map<Storage, int64_t> all = ValueStorages();
    const int64_t n = shape_.tokens, q = arch_.q_size();
    Add(all, {Storage::kResidual, Storage::kMid, Storage::kZ, Storage::kPre});
    int64_t more = 0;
    if (explicit_) {
      // Queries are scaled, and keys and values repeated for every query head, before they are multiplied: those copies are kept.
      Add(all, {Storage::kPattern});
      more += n * q * size_ + n * shape_.keys;  // scaled queries, and the mask
      if (arch_.kv_heads < arch_.heads)
        more += 2 * shape_.keys * q * size_;
      else
        Add(all, {Storage::kQkv, rotary_ ? Storage::kRotK : Storage::kQkv});
    } else {
      Add(all, {Storage::kQkv});
      if (rotary_) Add(all, {Storage::kRotQ, Storage::kRotK});
      more += n * arch_.heads * kFloat;  // the attention's logarithms
    }
    const bool gated_apart = arch_.gated_mlp && (inside_mlp_ || plain_ || arch_.activation != model::Activation::kSilu);
    if (gated_apart) more += n * arch_.d_mlp * size_ * 2;  // the activated gate, and the product where it is not kept besides
    const int64_t centred = arch_.norm == model::Norm::kLayer ? 1 : 0;
    for (const auto& [scale, normalized, storage] : {std::tuple(Site::kLn1Scale, Site::kLn1Normalized, Storage::kNorm1),
                                                     std::tuple(Site::kLn2Scale, Site::kLn2Normalized, Storage::kNorm2)}) {
      if (Reads(scale) || Reads(normalized)) Add(all, {storage});
      if (Reads(scale) || Reads(normalized) || plain_) more += n * arch_.d_model * (centred * kFloat + (size_ == kFloat ? 0 : kFloat));
    }
    if (Reads(Site::kResult)) more += n * arch_.d_model * size_;  // the sum that takes the output's place
    return Sum(all) + more;
  }

  // In the values, and in the residual behind the block, which is the same as that in front of the next one.
  int64_t Gradients() const {
    int64_t bytes = shape_.tokens * arch_.d_model * size_;
    for (const Site site : shape_.sites)
      if (site != Site::kResidPre) bytes += Bytes(site);
    return bytes;
  }

  // In the values alone.
  int64_t Repeated() const {
    int64_t bytes = 0;
    for (const Site site : shape_.sites) bytes += Bytes(site);
    return bytes;
  }

  // On the way forward: of each part, what is there at its widest moment and is not kept.
  int64_t Forward() const {
    const int64_t n = shape_.tokens, d = arch_.d_model, q = arch_.q_size(), kv = arch_.kv_size();
    const int64_t with_prefix = shape_.keys > shape_.tokens ? 2 * shape_.keys * kv : 0;
    const int64_t looking = explicit_ ? 2 * arch_.heads * n * shape_.keys + 3 * shape_.keys * q : 0;
    const int64_t attention = 2 * d + 2 * q + 2 * kv + (rotary_ ? q + kv : 0) + q;
    const int64_t mlp = 2 * d + HiddenSize() + arch_.d_mlp;
    return (n * std::max(attention, mlp) + looking + with_prefix) * size_;
  }

  int64_t Backward() const {
    const int64_t n = shape_.tokens, d = arch_.d_model, q = arch_.q_size(), kv = arch_.kv_size();
    const int64_t mlp = d + (arch_.gated_mlp ? 6 : 3) * arch_.d_mlp;
    const int64_t attention = 3 * d + 4 * q + 4 * kv;
    const int64_t looking = explicit_ ? 3 * arch_.heads * n * shape_.keys + 4 * n * q : 0;
    return (std::max(n * mlp, n * attention + looking)) * size_;
  }

  int64_t Bytes(Site site) const {
    const int64_t n = shape_.tokens;
    int64_t elements = 1;
    for (const model::Axis axis : model::SpecOf(site).axes) {
      if (axis == model::Axis::kPosition || axis == model::Axis::kQuery)
        elements *= n;
      else
        elements *= axis == model::Axis::kKey ? shape_.keys : model::SizeOf(axis, arch_);
    }
    return elements * size_;
  }

 private:
  static constexpr int64_t kFloat = sizeof(float);

  bool Reads(Site site) const { return shape_.sites.contains(site); }
  int64_t HiddenSize() const { return (arch_.gated_mlp ? 2 : 1) * arch_.d_mlp; }

  int64_t SizeOf(Storage storage) const {
    const int64_t n = shape_.tokens, d = arch_.d_model;
    switch (storage) {
      case Storage::kResidual:
      case Storage::kMid:
      case Storage::kAttnOut:
      case Storage::kMlpOut:
        return n * d * size_;
      case Storage::kQkv:
        return n * (arch_.q_size() + 2 * arch_.kv_size()) * size_;
      case Storage::kRotQ:
      case Storage::kZ:
        return n * arch_.q_size() * size_;
      case Storage::kRotK:
        return n * arch_.kv_size() * size_;
      case Storage::kScores:
      case Storage::kPattern:
        return arch_.heads * n * shape_.keys * size_;
      case Storage::kResult:
        return n * arch_.heads * d * size_;
      case Storage::kPre:
        return n * HiddenSize() * size_;
      case Storage::kPost:
        return n * arch_.d_mlp * size_;
      case Storage::kNorm1:
      case Storage::kNorm2:
        return n * (d + 1) * kFloat;
    }
    return 0;
  }

  static Storage StorageOf(Site site) {
    switch (site) {
      case Site::kQ:
      case Site::kK:
      case Site::kV:
        return Storage::kQkv;
      case Site::kRotQ:
        return Storage::kRotQ;
      case Site::kRotK:
        return Storage::kRotK;
      case Site::kAttnScores:
        return Storage::kScores;
      case Site::kPattern:
        return Storage::kPattern;
      case Site::kZ:
        return Storage::kZ;
      case Site::kResult:
        return Storage::kResult;
      case Site::kAttnOut:
        return Storage::kAttnOut;
      case Site::kResidMid:
      case Site::kMlpIn:
        return Storage::kMid;
      case Site::kMlpPre:
      case Site::kMlpPreLinear:
        return Storage::kPre;
      case Site::kMlpPost:
        return Storage::kPost;
      case Site::kMlpOut:
        return Storage::kMlpOut;
      case Site::kLn1Scale:
      case Site::kLn1Normalized:
        return Storage::kNorm1;
      case Site::kLn2Scale:
      case Site::kLn2Normalized:
        return Storage::kNorm2;
      default:
        return Storage::kResidual;
    }
  }

  std::map<Storage, int64_t> ValueStorages() const {
    std::map<Storage, int64_t> all;
    for (const Site site : shape_.sites) Add(all, {StorageOf(site)});
    if (shape_.keeps_keys) Add(all, {Storage::kQkv});
    if (shape_.keeps_keys && rotary_) Add(all, {Storage::kRotK});
    return all;
  }

  void Add(std::map<Storage, int64_t>& to, std::initializer_list<Storage> storages) const {
    for (const Storage storage : storages) to[storage] = SizeOf(storage);
  }

  static int64_t Sum(const std::map<Storage, int64_t>& all) {
    int64_t bytes = 0;
    for (const auto& [_, size] : all) bytes += size;
    return bytes;
  }

  const Architecture& arch_;
  const GradientShape& shape_;
  const int64_t size_;
  const bool plain_, rotary_, explicit_, inside_mlp_;
};

}  // namespace

GradientMemory MemoryOf(const model::Model& model, const GradientShape& shape) {
  const Block block(model, shape);
  const int64_t line = shape.keys * model.arch.d_model * static_cast<int64_t>(c10::elementSize(model.dtype));
  const int64_t ends = 3 * line;  // the first residual, the last, and the final norm's output
  GradientMemory memory;
  memory.values = shape.blocks * block.Values() + ends;
  memory.kept = shape.with_gradients ? shape.blocks * block.WithGraph() + ends : memory.values;
  memory.gradients = shape.with_gradients ? shape.blocks * block.Gradients() + line : 0;
  memory.repeated = shape.with_gradients ? shape.blocks * block.Repeated() : 0;
  memory.forward = block.Forward();
  memory.backward = block.Backward() + 2 * line;
  return memory;
}

int64_t SiteBytes(const model::Model& model, Site site, int64_t tokens) {
  GradientShape shape;
  shape.tokens = shape.keys = tokens;
  return Block(model, shape).Bytes(site);
}

}  // namespace fluoroscope::run
