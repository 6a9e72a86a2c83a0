#include "attribution/edge_attribution.h"

#include <algorithm>

#include "attribution/attribution_plan.h"
#include "attribution/node_scores.h"
#include "model/norm.h"
#include "model/packed_rows.h"

namespace fluoroscope::attribution {
namespace {

using model::Site;

// Changes and gradients that are held at once.
constexpr int64_t kPieceBytes = int64_t{32} << 20;

bool IsAttention(Site site) { return site == Site::kQ || site == Site::kK || site == Site::kV; }

at::Tensor InFloat(const at::Tensor& x) { return x.to(at::kFloat); }

}  // namespace

std::string ConventionOf(const EdgePlan& plan) {
  const std::string steps = std::to_string(plan.steps);
  const std::string where =
      plan.steps == 0 ? "g at the base run"
                      : "mean g over " + steps + " runs whose first hook_resid_pre is base + (i + 1/2) / " + steps + " * (source - base)";
  return std::string(plan.steps == 0 ? "edge attribution patching (EAP)"
                                     : "edge attribution patching with integrated gradients (EAP-IG, inputs)") +
         ": sum (what the sender adds in the source run - in the base run) * g, g = dm/d(residual as the receiver alone reads it), " +
         where + "; direct edges only; positive where the change would raise the metric above the base run's";
}

api::SweepCost CostOf(const EdgePlan& plan) {
  api::SweepCost cost = CostOfPasses(plan.paths.model, plan.paths.pairs, 1, std::max<int64_t>(plan.steps, 1));
  cost.cells = plan.paths.cells();
  // Changes and gradients with their masked copies, and the sums over nodes.
  uint64_t senders = 0, receivers = 0;
  for (const auto& [ends, count] : {std::pair{&plan.paths.senders, &senders}, std::pair{&plan.paths.receivers, &receivers}})
    for (const sweep::PathEnd& end : *ends)
      for (const sweep::PathNode& node : end.nodes) *count += std::max<size_t>(node.heads.size(), 1);
  const uint64_t line = (senders + receivers) * static_cast<uint64_t>(plan.paths.model->arch.d_model) * sizeof(float);
  const uint64_t metrics = plan.paths.pairs.front().base_metrics.size();
  cost.peak_bytes += 3 * std::max<uint64_t>(kPieceBytes, line) + (metrics + 4) * senders * receivers * sizeof(double);
  return cost;
}

Scoring ScoringOf(EdgePlan plan) {
  const auto kept = std::make_shared<const EdgePlan>(std::move(plan));
  return {kept->paths.pairs.size(), kept->paths.senders.size() * kept->paths.receivers.size(),
          [kept](size_t pair) { return std::make_unique<EdgeAttribution>(*kept, pair); }, std::nullopt};
}

EdgeAttribution::EdgeAttribution(const EdgePlan& plan, size_t pair)
    : PairPasses(*plan.paths.model, plan.paths.pairs[pair], pair, plan.steps),
      plan_(plan),
      pair_index_(pair),
      senders_(NodesOf(plan.paths.senders)),
      receivers_(NodesOf(plan.paths.receivers)),
      reaches_(Reaches()) {
  const std::vector<int64_t> shape = {static_cast<int64_t>(senders_.size()), static_cast<int64_t>(receivers_.size())};
  for (size_t m = 0; m < plan.paths.pairs[pair].base_metrics.size(); ++m) sums_.push_back(at::zeros(shape, at::kDouble));
}

std::vector<EdgeAttribution::Node> EdgeAttribution::NodesOf(const std::vector<sweep::PathEnd>& ends) {
  std::vector<Node> nodes;
  for (size_t end = 0; end < ends.size(); ++end)
    for (const sweep::PathNode& node : ends[end].nodes) {
      if (node.heads.empty()) nodes.push_back({end, node.site, node.layer, 0});
      for (int64_t head : node.heads) nodes.push_back({end, node.site, node.layer, head});
    }
  return nodes;
}

at::Tensor EdgeAttribution::Reaches() const {
  at::Tensor reaches = at::zeros({static_cast<int64_t>(senders_.size()), static_cast<int64_t>(receivers_.size())}, at::kDouble);
  double* out = reaches.mutable_data_ptr<double>();
  for (const Node& sender : senders_)
    for (const Node& receiver : receivers_) {
      const bool within = sender.layer == receiver.layer && sender.site == Site::kZ && receiver.site == Site::kMlpIn;
      const bool in_front =
          sender.site == Site::kEmbed || receiver.site == Site::kLnFinalNormalized || sender.layer < receiver.layer || within;
      *out++ = in_front ? 1 : 0;
    }
  return reaches;
}

std::set<Site> EdgeAttribution::Sites(bool with_gradients) const {
  std::set<Site> sites;
  for (const Node& sender : senders_) sites.insert(sender.site == Site::kEmbed ? Site::kResidPre : sender.site);
  if (!with_gradients) return sites;
  for (const Node& receiver : receivers_) {
    if (receiver.site != Site::kLnFinalNormalized) sites.insert(receiver.site);
    if (IsAttention(receiver.site)) sites.insert(Site::kResidPre);
  }
  return sites;
}

bool EdgeAttribution::StepScores(size_t metric) {
  const int64_t tokens = static_cast<int64_t>(pair().base_ids.size());
  const int64_t line = static_cast<int64_t>((senders_.size() + receivers_.size()) * sizeof(float)) * model().arch.d_model;
  const int64_t count = std::min(tokens - next_, std::max<int64_t>(kPieceBytes / line, 1));
  const at::Tensor changes = Changes(next_, count), gradients = Gradients(next_, count);
  sums_[metric] += at::matmul(changes.flatten(1), gradients.flatten(1).t()).to(at::kCPU, at::kDouble) * reaches_;
  next_ += count;
  if (next_ < tokens) return true;
  next_ = 0;
  return false;
}

at::Tensor EdgeAttribution::Mask(const std::vector<sweep::PathEnd>& ends, const std::vector<Node>& nodes, int64_t begin,
                                 int64_t count) const {
  at::Tensor mask = at::zeros({static_cast<int64_t>(nodes.size()), count, 1}, at::kFloat);
  float* const data = mask.mutable_data_ptr<float>();
  for (size_t n = 0; n < nodes.size(); ++n) {
    const std::vector<int64_t>* positions = &ends[nodes[n].end].positions[pair_index_];
    for (int64_t position : *positions)
      if (position >= begin && position < begin + count) data[static_cast<int64_t>(n) * count + position - begin] = 1;
  }
  return mask.to(model().device);
}

at::Tensor EdgeAttribution::Changes(int64_t begin, int64_t count) {
  const model::Architecture& arch = model().arch;
  std::vector<int64_t> of(pair().source_of.begin() + begin, pair().source_of.begin() + begin + count);
  std::vector<at::Tensor> changes;
  at::Tensor heads;  // [heads, positions, d_model], of the layer that the node before was in
  int64_t heads_layer = -1;
  for (const Node& node : senders_) {
    const Site site = node.site == Site::kEmbed ? Site::kResidPre : node.site;
    const auto difference = [&] {
      return InFloat(Difference(site, source().Value(site, node.layer), base().Value(site, node.layer).narrow(0, begin, count), of));
    };
    if (site != Site::kZ) {
      changes.push_back(difference());
      continue;
    }
    if (heads_layer != node.layer) {
      const model::Linear& out = model().weights.blocks[static_cast<size_t>(node.layer)].attn_out;
      heads =
          at::matmul(difference().transpose(0, 1), InFloat(out.weight).view({arch.d_model, arch.heads, arch.d_head}).permute({1, 2, 0}));
      heads_layer = node.layer;
    }
    changes.push_back(heads[node.head]);
  }
  return at::stack(changes) * Mask(plan_.paths.senders, senders_, begin, count);
}

at::Tensor EdgeAttribution::Gradients(int64_t begin, int64_t count) {
  std::vector<at::Tensor> all;
  for (const Node& node : receivers_) all.push_back(GradientOf(node, begin, count));
  return at::stack(all) * Mask(plan_.paths.receivers, receivers_, begin, count);
}

// The gradient in the residual that a receiver reads, through this receiver alone, [positions, d_model].
at::Tensor EdgeAttribution::GradientOf(const Node& node, int64_t begin, int64_t count) {
  const model::Architecture& arch = model().arch;
  if (node.site == Site::kLnFinalNormalized) return InFloat(gradients().GradientBehind(arch.layers - 1).narrow(0, begin, count));
  const at::Tensor gradient = InFloat(gradients().Gradient(node.site, node.layer).narrow(0, begin, count));
  if (node.site == Site::kMlpIn) return gradient;
  const model::BlockWeights& block = model().weights.blocks[static_cast<size_t>(node.layer)];
  const int64_t first = node.site == Site::kQ ? 0 : node.site == Site::kK ? arch.q_size() : arch.q_size() + arch.kv_size();
  const at::Tensor weight = InFloat(block.qkv.weight.narrow(0, first + node.head * arch.d_head, arch.d_head));
  const at::Tensor x = InFloat(gradients().Value(Site::kResidPre, node.layer).narrow(0, begin, count));
  const bool centred = arch.norm == model::Norm::kLayer;
  const at::Tensor away = centred ? x - x.mean(-1, /*keepdim=*/true) : x;
  const at::Tensor scale = at::sqrt(at::square(away).mean(-1, /*keepdim=*/true).add_(arch.norm_eps));
  const at::Tensor read = at::matmul(gradient.select(1, node.head), weight) * InFloat(block.ln1.weight);
  return model::NormGradient(read, away / scale, scale, centred);
}

std::vector<double> EdgeAttribution::Scores() const {
  const size_t metrics = sums_.size(), senders = plan_.paths.senders.size();
  std::vector<double> out(senders * plan_.paths.receivers.size() * metrics);
  for (size_t m = 0; m < metrics; ++m) {
    const double* sum = sums_[m].const_data_ptr<double>();
    for (const Node& sender : senders_)
      for (const Node& receiver : receivers_)
        out[(receiver.end * senders + sender.end) * metrics + m] += *sum++ / static_cast<double>(passes());
  }
  return out;
}

}  // namespace fluoroscope::attribution
