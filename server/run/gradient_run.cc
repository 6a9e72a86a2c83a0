#include "run/gradient_run.h"

#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <numeric>

namespace fluoroscope::run {

using model::Site;

namespace {

// The positions from `first` on, as one row.
model::PackedRows RowFrom(int64_t first, const std::vector<int64_t>& ids, const model::KvPrefix* prefix) {
  model::RowSpan span;
  span.positions.resize(ids.size() - static_cast<size_t>(first));
  std::iota(span.positions.begin(), span.positions.end(), first);
  if (first > 0) {
    span.prefix = prefix;
    span.prefix_size = first;
  }
  return model::PackedRows({std::move(span)});
}

}  // namespace

// Keeps what it sees; the forward pass goes on with the very tensors that are kept, so that gradients reach them.
class GradientRun::Recorder final : public model::SiteHooks {
 public:
  // `keys`: where the keys and values go; null for nowhere. Outlives it.
  Recorder(std::set<Site> sites, Site key_site, model::KvPrefix* keys) : sites_(std::move(sites)), key_site_(key_site), keys_(keys) {}

  bool Wants(Site site, int64_t layer) const override {
    return Keeps(site, layer) || (keys_ != nullptr && (site == key_site_ || site == Site::kV));
  }
  bool Wants(Site site, int64_t layer, int64_t) const override { return Keeps(site, layer); }
  at::Tensor At(Site site, int64_t layer, const model::PackedRows&, at::Tensor value) override {
    if (keys_ != nullptr && site == key_site_) keys_->k.push_back(value.detach());
    if (keys_ != nullptr && site == Site::kV) keys_->v.push_back(value.detach());
    if (!Keeps(site, layer)) return value;
    value = Replaced(site, layer, std::move(value));
    // The residual goes on beside the MLP that reads it: what the MLP reads is an alias, so that its gradient is the MLP's alone.
    return seen[{site, layer}] = site == Site::kMlpIn ? value.alias() : std::move(value);
  }
  // An alias: where the same tensor comes back, the heads' results are not what the pass goes on with.
  at::Tensor AtRow(Site site, int64_t layer, const model::RowSpan&, at::Tensor value) override {
    return seen[{site, layer}] = Replaced(site, layer, std::move(value)).alias();
  }

  std::map<Place, at::Tensor> seen;
  std::map<Place, at::Tensor> replaced;  // what goes on instead

 private:
  bool Keeps(Site site, int64_t layer) const { return sites_.contains(site) || replaced.contains({site, layer}); }
  // A leaf of the graph, so that its gradient is of what lies behind it.
  at::Tensor Replaced(Site site, int64_t layer, at::Tensor value) const {
    const auto by = replaced.find({site, layer});
    if (by == replaced.end()) return value;
    at::Tensor leaf = by->second.clone();  // outside of inference mode, where tensors can have gradients
    return at::GradMode::is_enabled() ? leaf.requires_grad_() : leaf;
  }

  const std::set<Site> sites_;
  const Site key_site_;
  model::KvPrefix* const keys_;
};

GradientRun::GradientRun(const model::Model& model, std::vector<int64_t> ids, std::set<Site> sites, Options options)
    : model_(model), ids_(std::move(ids)), options_(options) {
  const Site key_site = model.arch.positions == model::PositionScheme::kRotary ? Site::kRotK : Site::kK;
  recorder_ = std::make_unique<Recorder>(std::move(sites), key_site, options.keeps_keys ? &keys_ : nullptr);
  rows_ = RowFrom(options.common, ids_, options.common > 0 ? &options.trunk->keys_ : nullptr);
}

GradientRun::~GradientRun() = default;

void GradientRun::BeginWith(at::Tensor resid_pre, int64_t layer) {
  begin_ = std::move(resid_pre);
  layer_ = begins_at_ = layer;
}

void GradientRun::Replace(Site site, int64_t layer, at::Tensor value) { recorder_->replaced[{site, layer}] = std::move(value); }

bool GradientRun::StepForward() {
  // Tensors made in inference mode cannot take part in a graph.
  const c10::InferenceMode inference(!options_.with_gradients);
  const at::AutoGradMode gradients(options_.with_gradients);
  Forward();
  return !normalized_.defined();
}

void GradientRun::Forward() {
  if (!x_.defined()) {
    angles_ = model::AnglesOf(model_, rows_);
    const std::vector<int64_t> own(ids_.begin() + options_.common, ids_.end());
    x_ = begin_.defined() ? begin_.clone() : model::Embed(model_, model::IndexTensor(own, model_.device), rows_, *recorder_);
    first_ = options_.common > 0 ? Whole(options_.trunk->first_, x_, 0) : x_.detach();
  }
  Block block;
  block.in = options_.with_gradients ? x_.detach().requires_grad_() : x_;
  if (layer_ == model_.arch.layers) {
    block.out = model::FinalNorm(model_, block.in, rows_, *recorder_);
    normalized_ = options_.common > 0 ? Whole(options_.trunk->normalized_, block.out, 0) : block.out.detach();
  } else {
    const at::Tensor pre = model::Visit(*recorder_, Site::kResidPre, layer_, rows_, block.in);
    const at::Tensor mid = model::AttentionPart(model_, layer_, pre, rows_, rows_, angles_, *recorder_);
    block.out = model::MlpPart(model_, layer_, mid, rows_, *recorder_);
    ++layer_;
  }
  x_ = block.out.detach();
  if (options_.with_gradients) blocks_.push_back(std::move(block));
}

void GradientRun::StartBackward(at::Tensor gradient, bool last) {
  last_ = last;
  gradients_.clear();
  complete_.clear();
  behind_.assign(static_cast<size_t>(model_.arch.layers), {});
  const c10::InferenceMode inference(false);
  x_ = Differentiate(blocks_.back(), model_.arch.layers, gradient.clone());
  layer_ = model_.arch.layers;
}

bool GradientRun::StepBackward() {
  const c10::InferenceMode inference(false);
  --layer_;
  Block& block = blocks_[static_cast<size_t>(layer_ - begins_at_)];
  if (complete_.empty()) behind_[static_cast<size_t>(layer_)] = x_;
  x_ = Differentiate(block, layer_, x_);
  if (last_) {  // what holds the graph of this block
    block = {};
    for (auto& [place, value] : recorder_->seen)
      if (place.second == layer_) value = value.detach();
  }
  return layer_ > begins_at_;
}

bool GradientRun::StartWithout(int64_t layer) {
  if (complete_.empty()) complete_ = gradients_;
  gradients_ = complete_;
  layer_ = layer;
  x_ = behind_[static_cast<size_t>(layer)];
  for (auto& [place, gradient] : gradients_) {
    if (place.second != layer) continue;
    const bool is_residual = place.first == Site::kResidPre || place.first == Site::kResidMid || place.first == Site::kResidPost;
    gradient = is_residual ? x_ : at::zeros_like(gradient);
  }
  return layer_ > 0;
}

// The gradient in the block's input; those in its sites are kept.
at::Tensor GradientRun::Differentiate(const Block& block, int64_t layer, const at::Tensor& gradient) {
  torch::autograd::variable_list inputs = {block.in};
  std::vector<Place> places;
  for (const auto& [place, value] : recorder_->seen) {
    if (place.second != layer || layer == model_.arch.layers) continue;
    places.push_back(place);
    inputs.push_back(value);
  }
  const torch::autograd::variable_list found =
      torch::autograd::grad({block.out}, inputs, {gradient}, /*retain_graph=*/!last_, /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < places.size(); ++i) {
    const at::Tensor& g = found[i + 1];
    gradients_[places[i]] = g.defined() ? g : at::zeros_like(inputs[i + 1].detach());
  }
  return found[0];
}

at::Tensor GradientRun::Whole(const at::Tensor& trunk, const at::Tensor& own, int64_t axis) const {
  return at::cat({trunk.narrow(axis, 0, options_.common), own}, axis);
}

model::Angles GradientRun::angles() const { return model::AnglesOf(model_, RowFrom(0, ids_, nullptr)); }

at::Tensor GradientRun::Value(Site site, int64_t layer) const {
  const at::Tensor own = recorder_->seen.at({site, layer}).detach();
  return options_.common == 0 ? own : Whole(options_.trunk->Value(site, layer), own, model::PositionAxis(model::SpecOf(site)));
}

at::Tensor GradientRun::Gradient(Site site, int64_t layer) const { return gradients_.at({site, layer}); }

}  // namespace fluoroscope::run
