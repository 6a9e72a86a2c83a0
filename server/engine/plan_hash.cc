#include "engine/plan_hash.h"

#include <bit>
#include <span>

#include "base/sha256.h"

namespace fluoroscope::engine {
namespace {

// Every item is written with its length in front, so that no two plans have the same text.
class Canonical {
 public:
  void Number(int64_t value) { Bytes(std::to_string(value) + ";"); }
  void Numbers(const std::vector<int64_t>& values) {
    Number(static_cast<int64_t>(values.size()));
    for (int64_t value : values) Number(value);
  }
  void Place(const run::Place& place) {
    Number(static_cast<int64_t>(place.site));
    Number(place.layer);
    Numbers(place.positions);
    Numbers(place.heads);
    Numbers(place.units);
  }
  void Real(double value) { Number(std::bit_cast<int64_t>(value)); }
  void Text(const std::string& text) {
    Number(static_cast<int64_t>(text.size()));
    Bytes(text);
  }
  void Floats(const at::Tensor& tensor) {
    if (!tensor.defined()) return Number(0);
    const at::Tensor cpu = tensor.to(at::kCPU).contiguous();
    Numbers(cpu.sizes().vec());
    Flush();
    hash_.Update(std::span(static_cast<const std::byte*>(cpu.const_data_ptr()), cpu.nbytes()));
  }
  std::string Digest() {
    Flush();
    return hash_.HexDigest();
  }

 private:
  // OpenSSL is called for many items at once: most are a few bytes.
  void Bytes(const std::string& text) {
    waiting_ += text;
    if (waiting_.size() >= kFlushBytes) Flush();
  }
  void Flush() {
    hash_.Update(std::as_bytes(std::span(waiting_)));
    waiting_.clear();
  }
  static constexpr size_t kFlushBytes = 4096;
  std::string waiting_;
  Sha256 hash_;
};

// One for each kind of edit and of metric.
void WriteKind(const intervention::Copy& copy, Canonical& out) { out.Number(static_cast<int64_t>(copy.source)); }
void WriteKind(const intervention::Zero&, Canonical&) {}
void WriteKind(const intervention::Mean& mean, Canonical& out) {
  for (const intervention::Kept source : mean.reference->sources) out.Number(static_cast<int64_t>(source));
}
void WriteKind(const intervention::Set& set, Canonical& out) { out.Floats(set.value); }
void WriteKind(const intervention::Add& add, Canonical& out) { out.Floats(add.value); }
void WriteKind(const intervention::Scale& scale, Canonical& out) { out.Real(scale.factor); }
void WriteKind(const intervention::Interpolate& interpolate, Canonical& out) {
  out.Number(static_cast<int64_t>(interpolate.source));
  out.Real(interpolate.weight);
}
void WriteKind(const intervention::ProjectOut& project_out, Canonical& out) { out.Floats(project_out.basis); }
void WriteKind(const intervention::SwapSubspace& swap, Canonical& out) {
  out.Number(static_cast<int64_t>(swap.source));
  out.Floats(swap.basis);
  out.Number(swap.part == nullptr ? 0 : swap.part->null_space ? 2 : 1);
}
void WriteKind(const intervention::Noise& noise, Canonical& out) {
  out.Real(noise.stddev);
  out.Number(std::bit_cast<int64_t>(noise.seed));
  out.Number(noise.row);
}
void WriteKind(const intervention::LogitDifference& difference, Canonical& out) {
  out.Numbers(difference.right);
  out.Numbers(difference.wrong);
}
void WriteKind(const intervention::MeanLogit& mean, Canonical& out) { out.Numbers(mean.tokens); }
void WriteKind(const intervention::Probability& probability, Canonical& out) {
  out.Numbers(probability.tokens);
  out.Number(probability.logarithm);
}
void WriteKind(const intervention::CrossEntropy& entropy, Canonical& out) { out.Numbers(entropy.targets); }
void WriteKind(const intervention::ToReference& to, Canonical& out) {
  out.Number(static_cast<int64_t>(to.measure));
  out.Number(static_cast<int64_t>(to.reference));
}
void WriteKind(const intervention::Rank& rank, Canonical& out) { out.Number(rank.token); }
void WriteKind(const intervention::ReadOut& read, Canonical& out) {
  out.Number(static_cast<int64_t>(read.value));
  out.Floats(read.direction);
}

void Write(const std::vector<run::MetricPlan>& metrics, Canonical& out) {
  out.Number(static_cast<int64_t>(metrics.size()));
  for (const run::MetricPlan& metric : metrics) {
    out.Text(metric.name);
    out.Numbers(metric.positions);
    out.Number(static_cast<int64_t>(metric.metric.index()));
    std::visit([&](const auto& kind) { WriteKind(kind, out); }, metric.metric);
  }
}

void Write(const std::vector<run::CapturePlan>& captures, Canonical& out) {
  out.Number(static_cast<int64_t>(captures.size()));
  for (const run::CapturePlan& capture : captures) {
    out.Place(capture.place);
    out.Number(capture.top_k);
    out.Floats(capture.directions);
    out.Number(capture.lens ? 1 : capture.writes ? 2 : 0);
    if (capture.lens) {
      out.Number(capture.lens->top_k);
      out.Numbers(capture.lens->columns);
    }
    if (capture.writes) {
      out.Number(capture.writes->top_k);
      out.Floats(capture.writes->directions);
    }
  }
}

void Write(const std::vector<run::EditPlan>& edits, Canonical& out) {
  out.Number(static_cast<int64_t>(edits.size()));
  for (const run::EditPlan& edit : edits) {
    out.Place(edit.place);
    out.Number(static_cast<int64_t>(edit.edit.index()));
    std::visit([&](const auto& kind) { WriteKind(kind, out); }, edit.edit);
  }
}

void Write(const sweep::Pair& pair, Canonical& out) {
  out.Numbers(pair.base_ids);
  out.Numbers(pair.source_ids);
  out.Numbers(pair.donor_ids);
  out.Numbers(pair.source_of);
  out.Number(static_cast<int64_t>(pair.groups.size()));
  for (const std::vector<int64_t>& group : pair.groups) out.Numbers(group);
  Write(pair.base_metrics, out);
  Write(pair.source_metrics, out);
  Write(pair.base_edits, out);
  Write(pair.source_edits, out);
  // A handle by what it holds. Nothing is written of pairs without any: jobs that were planned before there were handles keep their hash.
  for (const auto& [point, given] : pair.given) {
    out.Text("given");
    out.Place({point.first, point.second, given.positions, given.heads, given.units});
    out.Text(given.content);
  }
}

void Write(const sweep::PathEnd& end, Canonical& out) {
  out.Number(static_cast<int64_t>(end.nodes.size()));
  for (const sweep::PathNode& node : end.nodes) {
    out.Number(static_cast<int64_t>(node.site));
    out.Number(node.layer);
    out.Numbers(node.heads);
  }
  for (const std::vector<int64_t>& positions : end.positions) out.Numbers(positions);
}

void Write(const run::RowPlan& row, Canonical& out) {
  out.Numbers(row.ids);
  out.Number(row.start.has_value());
  if (row.start) {
    out.Number(row.start->at.layer);
    out.Number(static_cast<int64_t>(row.start->at.part));
    out.Floats(row.start->value);
  }
  Write(row.captures, out);
  out.Number(static_cast<int64_t>(row.keeps.size()));
  for (const run::KeepPlan& keep : row.keeps) {
    out.Place(keep.place);
    out.Number(static_cast<int64_t>(keep.key));
  }
  out.Number(static_cast<int64_t>(row.keep_logits.size()));
  for (const run::KeepLogitsPlan& keep : row.keep_logits) {
    out.Numbers(keep.positions);
    out.Number(keep.log_probabilities);
    out.Number(static_cast<int64_t>(keep.key));
  }
  Write(row.edits, out);
  out.Number(row.logits.has_value());
  if (row.logits) {
    out.Numbers(row.logits->positions);
    out.Numbers(row.logits->columns);
    out.Number(row.logits->top_k);
  }
  Write(row.metrics, out);
  for (const run::GradientPlan& gradient : row.gradients) {
    out.Text("gradient");
    out.Number(static_cast<int64_t>(gradient.metric));
    Write({gradient.capture}, out);
  }
}

void Write(const api::CellChoice& choice, Canonical& out) {
  for (const uint64_t number : {uint64_t{choice.top}, uint64_t{choice.random}, choice.seed}) out.Number(static_cast<int64_t>(number));
}

}  // namespace

std::string HashOf(const run::RunPlan& plan) {
  Canonical out;
  out.Number(plan.isolated);
  out.Number(static_cast<int64_t>(plan.rows.size()));
  for (const run::RowPlan& row : plan.rows) Write(row, out);
  // A handle by what it holds: the same values under another handle make the same run.
  for (const run::GivenPlan& given : plan.given) {
    out.Text(given.content);
    out.Place(given.part);
    out.Number(static_cast<int64_t>(given.key));
  }
  return out.Digest();
}

std::string HashOf(const sweep::SweepPlan& plan, const std::optional<api::CellChoice>& fast) {
  Canonical out;
  out.Number(fast.has_value());
  if (fast) Write(*fast, out);
  out.Number(static_cast<int64_t>(plan.cell));
  const sweep::Grid& grid = plan.grid;
  out.Number(static_cast<int64_t>(grid.axes.size()));
  for (api::SweepAxis axis : grid.axes) out.Number(static_cast<int64_t>(axis));
  out.Number(static_cast<int64_t>(grid.sites.size()));
  for (model::Site site : grid.sites) out.Number(static_cast<int64_t>(site));
  out.Numbers(grid.layers);
  out.Numbers(grid.heads);
  out.Number(static_cast<int64_t>(grid.units.size()));
  for (const std::vector<int64_t>& units : grid.units) out.Numbers(units);
  out.Number(grid.window);
  out.Number(grid.window_before);
  if (!grid.second_layers.empty()) {  // as above: nothing of grids with one place
    out.Numbers(grid.second_layers);
    out.Numbers(grid.second_heads);
  }
  out.Number(static_cast<int64_t>(plan.references.size()));
  for (const std::vector<int64_t>& ids : plan.references) out.Numbers(ids);
  out.Number(static_cast<int64_t>(plan.pairs.size()));
  for (const sweep::Pair& pair : plan.pairs) Write(pair, out);
  return out.Digest();
}

std::string HashOf(const sweep::PathPlan& plan) {
  Canonical out;
  out.Number(plan.freeze_mlps);
  out.Number(plan.freeze_norms);
  for (const auto* ends : {&plan.senders, &plan.receivers}) {
    out.Number(static_cast<int64_t>(ends->size()));
    for (const sweep::PathEnd& end : *ends) Write(end, out);
  }
  out.Number(static_cast<int64_t>(plan.pairs.size()));
  for (const sweep::Pair& pair : plan.pairs) Write(pair, out);
  return out.Digest();
}

std::string HashOf(const attribution::EdgePlan& plan) {
  Canonical out;
  out.Text(HashOf(plan.paths));
  out.Number(static_cast<int64_t>(plan.method));
  out.Number(plan.steps);
  Write(plan.verify, out);
  return out.Digest();
}

std::string HashOf(const attribution::AttributionPlan& plan) {
  Canonical out;
  out.Text(HashOf(plan.sweep));
  out.Number(static_cast<int64_t>(plan.method));
  out.Number(plan.steps);
  Write(plan.verify, out);
  return out.Digest();
}

std::string HashOf(const generate::GeneratePlan& plan) {
  Canonical out;
  out.Text(HashOf(plan.prompts));
  out.Number(static_cast<int64_t>(plan.continuations.size()));
  for (const generate::ContinuationPlan& continuation : plan.continuations) {
    Write(continuation.edits, out);
    Write(continuation.captures, out);
  }
  out.Number(plan.samples);
  out.Number(plan.max_new_tokens);
  const generate::SamplingPlan& sampling = plan.sampling;
  for (const double value : {sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty}) out.Real(value);
  out.Number(sampling.top_k);
  out.Number(std::bit_cast<int64_t>(sampling.seed));
  out.Number(static_cast<int64_t>(plan.stop.size()));
  for (const std::string& stop : plan.stop) out.Text(stop);
  out.Numbers(plan.end_tokens);
  out.Number(plan.top_logprobs);
  return out.Digest();
}

}  // namespace fluoroscope::engine
