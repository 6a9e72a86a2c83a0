#include "run/row_gradients.h"

#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "intervention/region.h"
#include "run/metric_gradient.h"

namespace fluoroscope::run {

using model::Part;
using model::Site;

namespace {

model::PackedRows WholeRow(const RowPlan& row) {
  model::RowSpan span;
  span.positions.resize(row.ids.size());
  std::iota(span.positions.begin(), span.positions.end(), 0);
  return model::PackedRows({std::move(span)});
}

// The segment that a row begins with.
int64_t Beginning(const RowPlan& row) {
  if (!row.start) return 0;
  return row.start->at.layer * 2 + (row.start->at.part == Part::kMlp ? 2 : 1);
}

// Tensors made in inference mode cannot take part in a graph.
model::Angles AnglesForGraphs(const model::Model& model, const model::PackedRows& rows) {
  const c10::InferenceMode inference(false);
  return model::AnglesOf(model, rows);
}

}  // namespace

int64_t SegmentOf(const RowPlan& row, Site site, int64_t layer, const model::Architecture& arch) {
  int64_t segment = 0;
  switch (model::SpecOf(site).part) {
    case Part::kEmbedding:
      break;
    case Part::kBlockInput:
    case Part::kAttention:
      segment = 1 + 2 * layer;
      break;
    case Part::kMlp:
      segment = 2 + 2 * layer;
      break;
    case Part::kFinal:
      segment = 1 + 2 * arch.layers;
      break;
  }
  return std::max(segment, Beginning(row));  // a hook_resid_mid that the row begins with
}

const Place& ReadOutPlace(const RowPlan& row, const intervention::ReadOut& read) {
  return std::find_if(row.keeps.begin(), row.keeps.end(), [&](const KeepPlan& keep) { return keep.key == read.value; })->place;
}

std::vector<BackwardPass> BackwardPasses(const RowPlan& row, const model::Architecture& arch) {
  std::map<size_t, BackwardPass> passes;
  for (const GradientPlan& gradient : row.gradients) {
    const int64_t final = 1 + 2 * arch.layers;
    BackwardPass& pass = passes.try_emplace(gradient.metric, BackwardPass{gradient.metric, final, final}).first->second;
    const Place& place = gradient.capture.place;
    pass.first = std::min(pass.first, SegmentOf(row, place.site, place.layer, arch));
    if (const auto* read = std::get_if<intervention::ReadOut>(&row.metrics[gradient.metric].metric)) {
      const Place& there = ReadOutPlace(row, *read);
      pass.last = SegmentOf(row, there.site, there.layer, arch);
    }
  }
  std::vector<BackwardPass> out;
  for (const auto& [_, pass] : passes) out.push_back(pass);
  return out;
}

RowGradients::RowGradients(const model::Model& model, const Lane& lane, const RowPlan& row)
    : model_(model),
      lane_(lane),
      row_(row),
      hooks_(row, lane.kept),
      rows_(WholeRow(row)),
      angles_(AnglesForGraphs(model, rows_)),
      passes_(BackwardPasses(row, model.arch)),
      first_(std::min_element(passes_.begin(), passes_.end(), [](const auto& a, const auto& b) { return a.first < b.first; })->first),
      last_(std::max_element(passes_.begin(), passes_.end(), [](const auto& a, const auto& b) { return a.last < b.last; })->last),
      inputs_(static_cast<size_t>(2 + 2 * model.arch.layers)),
      segment_(Beginning(row)) {}

bool RowGradients::Step() {
  const c10::InferenceMode inference(false);
  const at::AutoGradMode gradients(false);
  switch (stage_) {
    case Stage::kForward:
      StepForward();
      return true;
    case Stage::kMetric:
      StepMetric();
      break;
    case Stage::kBackward:
      StepBackward();
      break;
  }
  if (stage_ != Stage::kBackward || segment_ >= pass().first) return true;
  stage_ = Stage::kMetric;
  next_position_ = 0;
  return ++pass_ < passes_.size();
}

at::Tensor RowGradients::Run(int64_t segment, const at::Tensor& input) {
  if (segment == 0) return model::Embed(model_, model::IndexTensor(row_.ids, model_.device), rows_, hooks_);
  const int64_t layer = (segment - 1) / 2;
  if (layer == model_.arch.layers) return model::FinalNorm(model_, input, rows_, hooks_);
  if (segment % 2 == 1) {
    const at::Tensor pre = model::Visit(hooks_, Site::kResidPre, layer, rows_, input);
    return model::AttentionPart(model_, layer, pre, rows_, rows_, angles_, hooks_);
  }
  const bool begins = row_.start && segment == Beginning(row_);
  return model::MlpPart(model_, layer, begins ? model::Visit(hooks_, Site::kResidMid, layer, rows_, input) : input, rows_, hooks_);
}

void RowGradients::StepForward() {
  at::Tensor& input = inputs_[static_cast<size_t>(segment_)];
  if (row_.start && segment_ == Beginning(row_)) input = row_.start->value.to(model_.device, model_.dtype);
  // The last segment's output is of use only to metrics of the logits.
  const bool is_last = segment_ == last_, is_final = segment_ == 1 + 2 * model_.arch.layers;
  at::Tensor output = is_last && !is_final ? at::Tensor() : Run(segment_, input);
  if (segment_ < first_) input.reset();  // nothing behind it is run again from here
  if (!is_last) {
    inputs_[static_cast<size_t>(++segment_)] = std::move(output);
    return;
  }
  normalized_ = std::move(output);
  stage_ = Stage::kMetric;
}

void RowGradients::StepMetric() {
  segment_ = pass().last;
  if (std::holds_alternative<intervention::ReadOut>(metric().metric)) {
    gradient_.reset();
    for (int64_t behind = 1 + 2 * model_.arch.layers; behind > segment_; --behind) Send(behind, {});
    stage_ = Stage::kBackward;
    return;
  }
  if (next_position_ == 0) gradient_ = at::zeros_like(normalized_);
  const std::vector<int64_t>& positions = metric().positions;
  const int64_t count = std::min(kGradientLines, static_cast<int64_t>(positions.size()) - next_position_);
  const auto begin = positions.begin() + next_position_;
  const at::Tensor index = model::IndexTensor(std::vector<int64_t>(begin, begin + count), model_.device);
  gradient_.index_copy_(
      0, index, Differentiate(model_, metric().metric, next_position_, count, model::TakeLines(normalized_, index), lane_.kept).gradient);
  next_position_ += count;
  if (next_position_ < static_cast<int64_t>(positions.size())) return;
  if (pass_ + 1 == passes_.size()) normalized_.reset();
  stage_ = Stage::kBackward;
}

void RowGradients::StepBackward() {
  std::set<HookPlace> captured;
  for (const GradientPlan& gradient : row_.gradients) {
    const Place& place = gradient.capture.place;
    if (gradient.metric == pass().metric && SegmentOf(row_, place.site, place.layer, model_.arch) == segment_)
      captured.insert({place.site, place.layer});
  }
  // A read-out begins in the middle of its segment.
  const auto* read = gradient_.defined() ? nullptr : std::get_if<intervention::ReadOut>(&metric().metric);
  const Place* source = read != nullptr ? &ReadOutPlace(row_, *read) : nullptr;
  std::set<HookPlace> recorded = captured;
  if (source != nullptr) recorded.insert({source->site, source->layer});

  std::map<HookPlace, at::Tensor> gradients;
  {
    const at::AutoGradMode with_gradients(true);
    hooks_.Record(std::move(recorded));
    const at::Tensor& held = inputs_[static_cast<size_t>(segment_)];
    at::Tensor input;
    if (held.defined()) input = held.detach().requires_grad_();
    const at::Tensor output = Run(segment_, input);
    torch::autograd::variable_list inputs;
    if (input.defined()) inputs.push_back(input);
    for (const HookPlace& place : captured) inputs.push_back(hooks_.seen().at(place));
    torch::autograd::variable_list outputs = {output}, given = {gradient_};
    if (source != nullptr) {
      outputs = {hooks_.seen().at({source->site, source->layer})};
      at::Tensor seed = at::zeros(outputs[0].sizes(), outputs[0].options().requires_grad(false));
      const at::AutoGradMode without(false);
      const intervention::Region region = RegionOf(*source);
      intervention::Write(seed, region, read->direction.to(seed.scalar_type()).expand_as(intervention::Read(seed, region)).contiguous());
      given = {std::move(seed)};
    }
    const torch::autograd::variable_list found = torch::autograd::grad(outputs, inputs, given, /*retain_graph=*/false,
                                                                       /*create_graph=*/false, /*allow_unused=*/true);
    size_t next = input.defined() ? 1 : 0;
    gradient_ = input.defined() ? (found[0].defined() ? found[0] : at::zeros_like(held)) : at::Tensor();
    for (const HookPlace& place : captured) gradients[place] = found[next++];
    hooks_.Record({});
  }
  Send(segment_, gradients);
  if (pass_ + 1 == passes_.size()) inputs_[static_cast<size_t>(segment_)].reset();
  --segment_;
}

void RowGradients::Send(int64_t segment, const std::map<HookPlace, at::Tensor>& gradients) {
  for (const GradientPlan& gradient : row_.gradients) {
    const Place& place = gradient.capture.place;
    if (gradient.metric != pass().metric || SegmentOf(row_, place.site, place.layer, model_.arch) != segment) continue;
    const auto found = gradients.find({place.site, place.layer});
    const at::Tensor whole = found != gradients.end() && found->second.defined() ? found->second : Zeros(place);
    at::Tensor entries = intervention::Read(whole, RegionOf(place)).to(at::kFloat);
    // A tensor of its own: gradients of one segment may be the same memory.
    if (!gradient.capture.reduced()) entries = entries.clone(at::MemoryFormat::Contiguous);
    lane_.out.Capture(row_, gradient.capture, entries);
  }
}

at::Tensor RowGradients::Zeros(const Place& place) const {
  std::vector<int64_t> shape;
  for (const model::Axis axis : model::SpecOf(place.site).axes) {
    const int64_t size = model::SizeOf(axis, model_.arch);
    shape.push_back(size < 0 ? row_.length() : size);
  }
  return at::zeros(shape, at::TensorOptions(model_.device).dtype(at::kFloat));
}

}  // namespace fluoroscope::run
