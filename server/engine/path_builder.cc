#include "engine/path_builder.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "base/status_macros.h"
#include "engine/plan_hash.h"
#include "engine/resolve.h"
#include "engine/sweep_pairs.h"

namespace fluoroscope::engine {
namespace {

using model::Site;

// Which sites an end of a path may be, and what they are called in a label.
struct Role {
  Site site;
  const char* name;
};
constexpr Role kSenders[] = {{Site::kZ, ""}, {Site::kMlpOut, "mlp "}, {Site::kEmbed, "embed"}};
constexpr Role kReceivers[] = {{Site::kQ, "q "}, {Site::kK, "k "}, {Site::kV, "v "}, {Site::kMlpIn, "mlp "}};

constexpr char kInFront[] =
    "a sender must lie in front of its receiver. The order is: the embedding; of each layer q, k and v, the heads' output, "
    "the MLP's input, the MLP's output; the logits";

class PathBuilder {
 public:
  PathBuilder(const LoadedModel& model, const api::PathRequest& request, const config::Limits& limits)
      : model_(model), request_(request), limits_(limits), arch_(model.model->arch) {}

  absl::StatusOr<BuiltPaths> Build() {
    FS_ASSIGN_OR_RETURN(ResolvedPairs pairs, ResolvePairs(model_, request_.pairs, request_.direction, /*copies=*/true, limits_));
    sweep::PathPlan& plan = built_.plan;
    plan.model = model_.model;
    plan.freeze_mlps = request_.freeze_mlps;
    plan.freeze_norms = request_.freeze_norms;
    plan.pairs = std::move(pairs.pairs);
    WarnOfSameTokens(plan.pairs, built_.warnings);
    built_.header.clean = std::move(pairs.clean);
    built_.header.corrupt = std::move(pairs.corrupt);
    const size_t cells = request_.senders.size() * request_.receivers.size();
    if (cells * plan.pairs.size() > kMaxCells)
      return absl::ResourceExhaustedError(std::to_string(request_.senders.size()) + " senders and " +
                                          std::to_string(request_.receivers.size()) + " receivers are " + std::to_string(cells) +
                                          " cells for each of " + std::to_string(plan.pairs.size()) +
                                          " pairs; the limit for a request is " + std::to_string(kMaxCells) + " cells together");
    built_.header.axes = {{api::SweepAxis::kReceiver, {}}, {api::SweepAxis::kSender, {}}};
    FS_ASSIGN_OR_RETURN(plan.receivers, Ends(request_.receivers, "receivers", kReceivers, built_.header.axes[0].labels));
    FS_ASSIGN_OR_RETURN(plan.senders, Ends(request_.senders, "senders", kSenders, built_.header.axes[1].labels));
    if (std::count_if(plan.receivers.begin(), plan.receivers.end(), [](const sweep::PathEnd& end) { return end.logits(); }) > 1)
      return absl::InvalidArgumentError("receivers: 'logits' is given more than once");
    FS_RETURN_IF_ERROR(CheckPaths());
    FS_ASSIGN_OR_RETURN(built_.header.metrics, ResolveSweepMetrics(model_, request_.metrics, plan.pairs));
    built_.header.convention = Convention();
    built_.header.cost = sweep::CostOf(plan);
    built_.hash = HashOf(plan);
    return std::move(built_);
  }

 private:
  absl::StatusOr<std::vector<sweep::PathEnd>> Ends(const std::vector<api::PathEnd>& ends, const std::string& list,
                                                   std::span<const Role> roles, std::vector<std::string>& labels) {
    std::vector<sweep::PathEnd> out;
    for (size_t i = 0; i < ends.size(); ++i) {
      const std::string field = At(list, i);
      sweep::PathEnd& end = out.emplace_back();
      std::string label;
      for (size_t n = 0; n < ends[i].nodes.size(); ++n) {
        FS_ASSIGN_OR_RETURN(sweep::PathNode node, Node(ends[i].nodes[n], At(field + ".nodes", n), list, roles));
        label += (label.empty() ? "" : " + ") + LabelOf(node, roles);
        end.nodes.push_back(std::move(node));
      }
      const bool logits = std::any_of(end.nodes.begin(), end.nodes.end(), [](const auto& n) { return n.site == Site::kLnFinalNormalized; });
      if (logits && end.nodes.size() > 1) return absl::InvalidArgumentError(field + ": 'logits' cannot share a place with other receivers");
      if (logits && !ends[i].positions.empty())
        return absl::InvalidArgumentError(field + ".positions: 'logits' has none; a metric says where it is read");
      for (size_t pair = 0; pair < built_.plan.pairs.size(); ++pair) {
        const std::vector<int64_t>& ids = built_.plan.pairs[pair].base_ids;
        std::vector<int64_t> all(ids.size());
        std::iota(all.begin(), all.end(), 0);
        if (!ends[i].positions.empty()) {
          const api::Positions& chosen = ends[i].positions[ends[i].positions.size() == 1 ? 0 : pair];
          FS_ASSIGN_OR_RETURN(all, ResolvePositions(model_, chosen, ids, field + ".positions (pair " + std::to_string(pair) + ")"));
        }
        end.positions.push_back(std::move(all));
      }
      labels.push_back(ends[i].label.empty() ? label : ends[i].label);
    }
    return out;
  }

  // In a grid cells without a path are NaN. Where there is nothing else the request is a mistake.
  absl::Status CheckPaths() const {
    for (const sweep::PathEnd& sender : built_.plan.senders)
      for (const sweep::PathEnd& receiver : built_.plan.receivers)
        if (sweep::HasPath(sender, receiver)) return absl::OkStatus();
    const std::vector<std::string>&receivers = built_.header.axes[0].labels, &senders = built_.header.axes[1].labels;
    const bool single = senders.size() == 1 && receivers.size() == 1;
    return absl::InvalidArgumentError(single ? "there is no path from sender '" + senders[0] + "' to receiver '" + receivers[0] +
                                                   "': " + kInFront
                                             : "none of the " + std::to_string(senders.size()) + " senders lies in front of any of the " +
                                                   std::to_string(receivers.size()) + " receivers, so there is no path: " + kInFront);
  }

  absl::StatusOr<sweep::PathNode> Node(const api::PathNode& node, const std::string& field, const std::string& list,
                                       std::span<const Role> roles) {
    if (node.site == "logits" && list == "receivers") {
      if (!node.heads.empty()) return absl::InvalidArgumentError(field + ".heads: 'logits' has no heads");
      const std::string why = model_.refused.Why(Site::kLnFinalNormalized);
      if (!why.empty()) return absl::FailedPreconditionError("logits: " + why);
      return sweep::PathNode{Site::kLnFinalNormalized, 0, {}};
    }
    api::Selection select;
    select.sites = {node.site};
    FS_ASSIGN_OR_RETURN(const std::vector<HookPoint> found, ResolveSites(model_, select, /*for_edit=*/true, field + ".site"));
    const auto role = std::find_if(roles.begin(), roles.end(), [&](const Role& r) { return r.site == found.front().site; });
    if (found.size() != 1 || role == roles.end())
      return absl::InvalidArgumentError(field + ".site: '" + node.site + "' cannot be among the " + list + "; " +
                                        (list == "senders"
                                             ? "blocks.N.attn.hook_z, blocks.N.hook_mlp_out and hook_embed can"
                                             : "blocks.N.attn.hook_q, hook_k and hook_v, blocks.N.hook_mlp_in and logits can"));
    sweep::PathNode out{found.front().site, found.front().layer, {}};
    const int axis = model::HeadAxis(model::SpecOf(out.site));
    if (axis < 0) {
      if (!node.heads.empty()) return absl::InvalidArgumentError(field + ".heads: " + node.site + " has no head axis");
      return out;
    }
    FS_ASSIGN_OR_RETURN(out.heads, ResolveHeads(model_, node.heads, found.front(), field + ".heads"));
    if (out.heads.empty()) {
      out.heads.resize(static_cast<size_t>(model::SizeOf(model::SpecOf(out.site).axes[static_cast<size_t>(axis)], arch_)));
      std::iota(out.heads.begin(), out.heads.end(), 0);
    }
    return out;
  }

  // "9.6" (a head), "q 10.0", "mlp 3", "embed", "logits".
  static std::string LabelOf(const sweep::PathNode& node, std::span<const Role> roles) {
    if (node.site == Site::kLnFinalNormalized) return "logits";
    std::string label = std::find_if(roles.begin(), roles.end(), [&](const Role& r) { return r.site == node.site; })->name;
    if (node.site == Site::kEmbed) return label;
    label += std::to_string(node.layer);
    for (size_t i = 0; i < node.heads.size(); ++i) label += (i == 0 ? "." : ",") + std::to_string(node.heads[i]);
    return label;
  }

  std::string Convention() const {
    const bool noise = request_.direction == api::SweepDirection::kNoise;
    const std::string base = noise ? "clean" : "corrupt", source = noise ? "corrupt" : "clean";
    return "path patching: senders say what they say in the " + source + " run; outputs of all other heads frozen to the " + base +
           " run's; MLPs " + (request_.freeze_mlps ? "frozen too" : "recomputed") + ", norms " +
           (request_.freeze_norms ? "frozen too" : "recomputed") + "; receivers then read that in the " + base +
           " run, with everything behind them recomputed";
  }

  const LoadedModel& model_;
  const api::PathRequest& request_;
  const config::Limits& limits_;
  const model::Architecture& arch_;
  BuiltPaths built_;
};

}  // namespace

absl::StatusOr<BuiltPaths> BuildPaths(const LoadedModel& model, const api::PathRequest& request, const config::Limits& limits) {
  return PathBuilder(model, request, limits).Build();
}

}  // namespace fluoroscope::engine
