#include "attribution/edge_attribution.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "attribution/node_scores.h"
#include "model/norm.h"
#include "model/packed_rows.h"

namespace fluoroscope::attribution {
namespace {

using model::Site;
using sweep::Reaches;

// Changes and gradients that are held at once.
constexpr int64_t kPieceBytes = int64_t{32} << 20;

bool IsAttention(Site site) { return site == Site::kQ || site == Site::kK || site == Site::kV; }

at::Tensor InFloat(const at::Tensor& x) { return x.to(at::kFloat); }

// Where a sender's output stands, its stage's with it.
Place PlaceOf(Site sender, int64_t layer) { return {sender == Site::kEmbed ? Site::kResidPre : sender, layer}; }

// The stages of all senders that reach some receiver.
std::vector<Place> StagesOf(const sweep::PathPlan& paths) {
  std::set<Place> stages;
  for (const sweep::PathEnd& sender : paths.senders)
    for (const sweep::PathNode& from : sender.nodes)
      for (const sweep::PathEnd& receiver : paths.receivers)
        for (const sweep::PathNode& to : receiver.nodes)
          if (Reaches(from.site, from.layer, to.site, to.layer)) stages.insert(PlaceOf(from.site, from.layer));
  return {stages.begin(), stages.end()};
}

}  // namespace

std::string ConventionOf(const EdgePlan& plan) {
  const std::string steps = std::to_string(plan.steps), share = "base + (i + 1/2) / " + steps + " * (source - base)";
  std::string name = "edge attribution patching (EAP)", where = "g at the base run";
  if (plan.method == api::EdgeMethod::kEapIg) {
    name = "edge attribution patching with integrated gradients (EAP-IG, inputs)";
    where = "mean g over " + steps + " runs whose first hook_resid_pre is " + share;
  } else if (plan.method == api::EdgeMethod::kEapIgActivations) {
    name = "edge attribution patching with integrated gradients (EAP-IG, activations)";
    where = "mean g over " + steps + " runs in which the sender's stage (the embedding, all heads of a layer, or an MLP) is " + share +
            " and what lies behind runs on";
  }
  std::string text = name +
                     ": sum (what the sender adds in the source run - in the base run) * g, g = dm/d(residual as the receiver alone reads "
                     "it), " +
                     where + "; direct edges only; positive where the change would raise the metric above the base run's";
  if (plan.verify.top + plan.verify.random > 0)
    text += "; exact: path patching of the direct path alone, all other heads and all MLPs frozen, the receiver's norm recomputed";
  return text;
}

Way WayOf(const EdgePlan& plan) {
  if (plan.method == api::EdgeMethod::kEap) return {};
  if (plan.method == api::EdgeMethod::kEapIg) return {plan.steps, false, {}};
  return {plan.steps, true, StagesOf(plan.paths)};
}

std::set<Site> SitesOf(const EdgePlan& plan, bool with_gradients) {
  std::set<Site> sites;
  if (!with_gradients || plan.method == api::EdgeMethod::kEap)
    for (const sweep::PathEnd& end : plan.paths.senders)
      for (const sweep::PathNode& node : end.nodes) sites.insert(PlaceOf(node.site, node.layer).first);
  if (!with_gradients) return sites;
  for (const sweep::PathEnd& end : plan.paths.receivers)
    for (const sweep::PathNode& node : end.nodes) {
      if (node.site != Site::kLnFinalNormalized) sites.insert(node.site);
      if (IsAttention(node.site)) sites.insert(Site::kResidPre);
    }
  return sites;
}

std::vector<NodeCount> NodeCountsOf(const EdgePlan& plan) {
  const auto nodes = [](const std::vector<sweep::PathEnd>& ends, const auto& counts) {
    int64_t count = 0;
    for (const sweep::PathEnd& end : ends)
      for (const sweep::PathNode& node : end.nodes)
        if (counts(node)) count += static_cast<int64_t>(std::max<size_t>(node.heads.size(), 1));
    return count;
  };
  const auto any = [](const sweep::PathNode&) { return true; };
  if (plan.method != api::EdgeMethod::kEapIgActivations) return {{nodes(plan.paths.senders, any), nodes(plan.paths.receivers, any)}};
  std::vector<NodeCount> counts;
  for (const Place& stage : StagesOf(plan.paths)) {
    const auto here = [&](const sweep::PathNode& sender) { return PlaceOf(sender.site, sender.layer) == stage; };
    const Site sender = stage.first == Site::kResidPre ? Site::kEmbed : stage.first;
    const auto behind = [&](const sweep::PathNode& receiver) { return Reaches(sender, stage.second, receiver.site, receiver.layer); };
    counts.push_back({nodes(plan.paths.senders, here), nodes(plan.paths.receivers, behind)});
  }
  return counts;
}

int64_t PositionsAtOnce(const NodeCount& nodes, int64_t d_model) {
  return std::max<int64_t>(kPieceBytes / ((nodes.senders + nodes.receivers) * static_cast<int64_t>(sizeof(float)) * d_model), 1);
}

Scoring ScoringOf(EdgePlan plan, uint64_t peak_bytes) {
  const auto kept = std::make_shared<const EdgePlan>(std::move(plan));
  Scoring scoring{kept->paths.pairs.size(), kept->paths.senders.size() * kept->paths.receivers.size(),
                  [kept](size_t pair) { return std::make_unique<EdgeAttribution>(*kept, pair); }, std::nullopt};
  if (kept->verify.top + kept->verify.random > 0) {
    const auto exact = [kept, peak_bytes](sweep::FinishedCells finished) {
      sweep::PathPlan paths = DirectPaths(*kept);
      paths.finished = std::move(finished);
      sweep::Pieces pieces = sweep::PiecesOf(std::move(paths));
      pieces.fits = peak_bytes;
      return pieces;
    };
    scoring.verification = {exact, kept->verify, false};
  }
  return scoring;
}

sweep::PathPlan DirectPaths(const EdgePlan& plan) {
  sweep::PathPlan paths = plan.paths;
  paths.freeze_mlps = true;
  return paths;
}

EdgeAttribution::EdgeAttribution(const EdgePlan& plan, size_t pair)
    : PairPasses(*plan.paths.model, plan.paths.pairs[pair], pair, WayOf(plan)), plan_(plan), pair_index_(pair) {
  const std::vector<Node> senders = NodesOf(plan.paths.senders), receivers = NodesOf(plan.paths.receivers);
  if (plan.method != api::EdgeMethod::kEapIgActivations) {
    parts_.push_back(PartOf(senders, receivers));
    return;
  }
  for (const Place& place : places()) {
    std::vector<Node> here, behind;
    for (const Node& sender : senders)
      if (PlaceOf(sender.site, sender.layer) == place) here.push_back(sender);
    for (const Node& receiver : receivers)
      if (Reaches(here.front().site, here.front().layer, receiver.site, receiver.layer)) behind.push_back(receiver);
    parts_.push_back(PartOf(std::move(here), std::move(behind)));
  }
}

EdgeAttribution::Part EdgeAttribution::PartOf(std::vector<Node> senders, std::vector<Node> receivers) const {
  const std::vector<int64_t> shape = {static_cast<int64_t>(senders.size()), static_cast<int64_t>(receivers.size())};
  Part part{std::move(senders), std::move(receivers), at::zeros(shape, at::kDouble), {}};
  double* reaches = part.reaches.mutable_data_ptr<double>();
  for (const Node& sender : part.senders)
    for (const Node& receiver : part.receivers) *reaches++ = Reaches(sender.site, sender.layer, receiver.site, receiver.layer) ? 1 : 0;
  for (size_t m = 0; m < pair().base_metrics.size(); ++m) part.sums.push_back(at::zeros(shape, at::kDouble));
  return part;
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

bool EdgeAttribution::StepScores(size_t metric) {
  Part& part = parts_[place()];
  const int64_t tokens = static_cast<int64_t>(pair().base_ids.size());
  const NodeCount nodes{static_cast<int64_t>(part.senders.size()), static_cast<int64_t>(part.receivers.size())};
  const int64_t count = std::min(tokens - next_, PositionsAtOnce(nodes, model().arch.d_model));
  const at::Tensor changes = Changes(part.senders, next_, count), gradients = Gradients(part.receivers, next_, count);
  part.sums[metric] += at::matmul(changes.flatten(1), gradients.flatten(1).t()).to(at::kCPU, at::kDouble) * part.reaches;
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

at::Tensor EdgeAttribution::Changes(const std::vector<Node>& senders, int64_t begin, int64_t count) {
  const model::Architecture& arch = model().arch;
  std::vector<int64_t> of(pair().source_of.begin() + begin, pair().source_of.begin() + begin + count);
  std::vector<at::Tensor> changes;
  at::Tensor heads;  // [heads, positions, d_model], of the layer that the node before was in
  int64_t heads_layer = -1;
  for (const Node& node : senders) {
    const Site site = PlaceOf(node.site, node.layer).first;
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
  return at::stack(changes) * Mask(plan_.paths.senders, senders, begin, count);
}

at::Tensor EdgeAttribution::Gradients(const std::vector<Node>& receivers, int64_t begin, int64_t count) {
  std::vector<at::Tensor> all;
  for (const Node& node : receivers) all.push_back(GradientOf(node, begin, count));
  return at::stack(all) * Mask(plan_.paths.receivers, receivers, begin, count);
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
  const size_t metrics = pair().base_metrics.size(), senders = plan_.paths.senders.size();
  std::vector<double> out(senders * plan_.paths.receivers.size() * metrics);
  for (const Part& part : parts_)
    for (size_t m = 0; m < metrics; ++m) {
      const double* sum = part.sums[m].const_data_ptr<double>();
      for (const Node& sender : part.senders)
        for (const Node& receiver : part.receivers)
          out[(receiver.end * senders + sender.end) * metrics + m] += *sum++ / static_cast<double>(passes());
    }
  // There is no such edge: 0 would be an estimate.
  for (size_t r = 0; r < plan_.paths.receivers.size(); ++r)
    for (size_t s = 0; s < senders; ++s)
      if (!sweep::HasPath(plan_.paths.senders[s], plan_.paths.receivers[r]))
        std::fill_n(out.begin() + static_cast<std::ptrdiff_t>((r * senders + s) * metrics), metrics,
                    std::numeric_limits<double>::quiet_NaN());
  return out;
}

}  // namespace fluoroscope::attribution
