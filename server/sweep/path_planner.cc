#include "sweep/path_planner.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "run/cost.h"
#include "sweep/piece_builder.h"

namespace fluoroscope::sweep {
namespace {

using model::Part;
using model::Site;
using Is = Piece::Row::Is;

// A piece takes senders until it has its rows, or they keep so many numbers for receivers.
constexpr size_t kMaxKept = size_t{1} << 24;

// Where a sender is first felt, and where a receiver reads.
run::Point FeltAt(const PathNode& sender) {
  if (sender.site == Site::kEmbed) return {0, Part::kAttention};
  return sender.site == Site::kZ ? run::Point{sender.layer, Part::kMlp} : run::Point{sender.layer + 1, Part::kAttention};
}
run::Point ReadsAt(const PathNode& receiver, int64_t layers) {
  if (receiver.site == Site::kLnFinalNormalized) return {layers, Part::kFinal};
  return {receiver.layer, receiver.site == Site::kMlpIn ? Part::kMlp : Part::kAttention};
}
// Where a row begins that has this sender's output changed.
run::Point ChangedAt(const PathNode& sender) {
  return sender.site == Site::kEmbed ? run::Point{0, Part::kAttention}
                                     : run::Point{sender.layer, sender.site == Site::kZ ? Part::kAttention : Part::kMlp};
}

}  // namespace

bool Reaches(Site sender, int64_t from, Site receiver, int64_t to) {
  const bool within = from == to && sender == Site::kZ && receiver == Site::kMlpIn;
  return sender == Site::kEmbed || receiver == Site::kLnFinalNormalized || from < to || within;
}

bool HasPath(const PathEnd& sender, const PathEnd& receiver) {
  for (const PathNode& from : sender.nodes)
    for (const PathNode& to : receiver.nodes)
      if (Reaches(from.site, from.layer, to.site, to.layer)) return true;
  return false;
}

namespace {

// The positions at which a sender says something new. A value is the base's own when all tokens up to its position are the same; an
// embedding when its own token is.
std::vector<int64_t> Altered(const Pair& pair, const PathEnd& sender, size_t index) {
  const bool own_token_only = std::all_of(sender.nodes.begin(), sender.nodes.end(), [](const auto& n) { return n.site == Site::kEmbed; });
  const size_t common = pair.CommonWithSource();
  std::vector<int64_t> altered;
  for (int64_t position : sender.positions[index]) {
    const size_t p = static_cast<size_t>(position);
    const int64_t source = pair.source_of[p];
    if (source < 0) continue;
    if (source == position && (p < common || (own_token_only && pair.source_ids[p] == pair.base_ids[p]))) continue;
    altered.push_back(position);
  }
  return altered;
}

std::vector<int64_t> Common(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  std::vector<int64_t> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return both;
}

class PathPlanner {
 public:
  PathPlanner(const PathPlan& paths, size_t max_rows) : paths_(paths), max_rows_(max_rows), arch_(paths.model->arch), build_(paths.model) {}

  Piece Plan(size_t begin) {
    const size_t receivers = paths_.receivers.size();
    const size_t first = begin - begin % receivers;
    size_t at = first;
    std::optional<uint32_t> pair;
    while (at < paths_.cells() && (at == first || (build_.rows() < max_rows_ && kept_ < kMaxKept))) {
      if (Finished(at)) {
        at += receivers;
        continue;
      }
      const uint32_t here = paths_.PairAt(at);
      if (pair != here) BeginPair(here);
      pair = here;
      AddSender(here, paths_.SenderAt(at));
      at += receivers;
    }
    return build_.Finish(at);
  }

 private:
  // What senders keep of one site and layer for the receivers there.
  struct Heard {
    size_t key = 0;
    std::vector<int64_t> heads;
  };

  void BeginPair(uint32_t index) {
    const Pair& pair = paths_.pairs[index];
    const PieceBuilder::PairRows runs = build_.AddPair(pair, index);
    base_ = runs.base;
    source_ = runs.source;
    trunk_ = runs.trunk;
    metrics_ = runs.metrics;
    const std::vector<size_t> nowhere(static_cast<size_t>(arch_.layers), run::TrunkPlan::kNotKept);
    build_.trunk(trunk_).attn_out = build_.trunk(trunk_).mlp_out = nowhere;
  }

  uint32_t CellOf(size_t receiver, size_t sender) const { return paths_.CellOf(receiver, sender); }

  // All cells of the sender that begins here are.
  bool Finished(size_t begin) const {
    for (size_t r = 0; r < paths_.receivers.size(); ++r)
      if (!paths_.FinishedAt(begin + r)) return false;
    return true;
  }

  void AddSender(uint32_t index, uint32_t number) {
    const Pair& pair = paths_.pairs[index];
    const PathEnd& sender = paths_.senders[number];
    const std::vector<int64_t> altered = Altered(pair, sender, index);
    run::Point felt{arch_.layers, Part::kFinal};
    for (const PathNode& node : sender.nodes) felt = std::min(felt, FeltAt(node));
    // What each receiver hears of it: the positions, and the nodes that it reaches.
    std::vector<std::vector<int64_t>> where(paths_.receivers.size());
    std::optional<uint32_t> logits;
    std::map<std::pair<int64_t, Site>, std::set<int64_t>> heads;
    for (size_t r = 0; r < where.size(); ++r) {
      const PathEnd& receiver = paths_.receivers[r];
      if (paths_.finished.Has(index, CellOf(r, number))) continue;
      if (!HasPath(sender, receiver)) {
        build_.Fill({Is::kCell, index, CellOf(r, number), {}, /*no_path=*/true});
        continue;
      }
      if (receiver.logits()) {
        logits = static_cast<uint32_t>(r);
        continue;
      }
      where[r] = Common(altered, receiver.positions[index]);
      bool reached = false;
      for (const PathNode& node : receiver.nodes) {
        if (where[r].empty() || felt > ReadsAt(node, arch_.layers)) continue;
        reached = true;
        heads[{node.layer, node.site}].insert(node.heads.begin(), node.heads.end());
      }
      if (!reached) where[r].clear();
      if (MetricsFrom(where[r]).empty()) {
        where[r].clear();
        build_.Fill({Is::kCell, index, CellOf(r, number)});
      }
    }
    std::vector<run::MetricPlan> own_metrics;
    if (logits) {
      for (const run::MetricPlan& metric : metrics_)
        if (std::binary_search(altered.begin(), altered.end(), metric.positions.front())) own_metrics.push_back(metric);
      if (own_metrics.empty()) build_.Fill({Is::kCell, index, CellOf(*logits, number)});
    }
    const bool heard = std::any_of(where.begin(), where.end(), [](const auto& positions) { return !positions.empty(); });
    if (!heard && own_metrics.empty()) return;
    const uint32_t own_cell = logits ? CellOf(*logits, number) : 0;
    const size_t row = SenderRow(index, sender, felt, altered, own_cell, std::move(own_metrics));
    std::map<std::pair<int64_t, Site>, Heard> said;
    for (const auto& [place, chosen] : heads) {
      Heard& one = said[place];
      one.heads.assign(chosen.begin(), chosen.end());
      one.key = build_.Keep(row, run::Place{place.second, place.first, altered, one.heads, {}});
      kept_ += altered.size() * static_cast<size_t>(one.heads.empty() ? arch_.d_model : arch_.d_head * static_cast<int64_t>(chosen.size()));
    }
    for (size_t r = 0; r < where.size(); ++r)
      if (!where[r].empty()) AddCell(index, CellOf(r, number), paths_.receivers[r], felt, altered, where[r], said);
  }

  std::vector<run::MetricPlan> MetricsFrom(const std::vector<int64_t>& positions) const {
    std::vector<run::MetricPlan> metrics;
    if (positions.empty()) return metrics;
    for (const run::MetricPlan& metric : metrics_)
      if (metric.positions.front() >= positions.front()) metrics.push_back(metric);
    return metrics;
  }

  // The run with the sender's output changed and everything else frozen.
  size_t SenderRow(uint32_t index, const PathEnd& sender, run::Point felt, const std::vector<int64_t>& altered, uint32_t cell,
                   std::vector<run::MetricPlan> metrics) {
    const Pair& pair = paths_.pairs[index];
    run::Point start{arch_.layers, Part::kFinal};
    for (const PathNode& node : sender.nodes) start = std::min(start, ChangedAt(node));
    build_.BeginsAt(trunk_, base_, start);
    const size_t row = build_.NewRow({metrics.empty() ? Is::kLender : Is::kCell, index, cell}, pair.base_ids, kSenderWave).index;
    std::vector<int64_t> lines;  // the row's positions
    for (int64_t p = altered.front(); p < static_cast<int64_t>(pair.base_ids.size()); ++p) lines.push_back(p);

    run::FreezePlan freeze{trunk_, std::vector<bool>(static_cast<size_t>(arch_.layers), true),
                           std::vector<bool>(static_cast<size_t>(arch_.layers), paths_.freeze_mlps)};
    std::vector<run::EditPlan> edits;
    const auto copy = [&](size_t key, Site site, int64_t layer, const std::vector<int64_t>& to, const std::vector<int64_t>& from,
                          const std::vector<int64_t>& chosen) {
      edits.push_back({{site, layer, to, chosen, {}}, intervention::Copy{key, from, chosen, {}}});
    };
    const auto hold = [&](Site site, int64_t layer) { copy(build_.Keep(base_, site, layer), site, layer, lines, lines, {}); };
    std::vector<int64_t> there;
    for (int64_t p : altered) there.push_back(pair.source_of[static_cast<size_t>(p)]);
    std::set<std::pair<Site, int64_t>> open;
    for (const PathNode& node : sender.nodes) {
      const Site site = node.site == Site::kEmbed ? Site::kResidPre : node.site;
      // The part that the sender belongs to is computed, so that it can be changed. Where it sees a change, the rest of it is held.
      const bool first = open.insert({site, node.layer}).second;
      if (site == Site::kZ) freeze.attention[static_cast<size_t>(node.layer)] = false;
      if (site == Site::kMlpOut) freeze.mlp[static_cast<size_t>(node.layer)] = false;
      if (first && felt <= ChangedAt(node) && (site == Site::kZ || (site == Site::kMlpOut && paths_.freeze_mlps))) hold(site, node.layer);
    }
    for (const PathNode& node : sender.nodes) {
      const Site site = node.site == Site::kEmbed ? Site::kResidPre : node.site;
      build_.Copy(source_, {site, node.layer, altered, node.heads, {}}, there, edits);
    }
    if (paths_.freeze_norms) {
      for (int64_t layer = start.layer; layer < arch_.layers; ++layer) {
        if (start < run::Point{layer, Part::kMlp}) hold(Site::kLn1Scale, layer);
        if (!freeze.mlp[static_cast<size_t>(layer)]) hold(Site::kLn2Scale, layer);
      }
      if (!metrics.empty()) hold(Site::kLnFinalScale, 0);
    }
    for (int64_t layer = start.layer; layer < arch_.layers; ++layer) {
      const size_t l = static_cast<size_t>(layer);
      if (freeze.attention[l]) build_.trunk(trunk_).attn_out[l] = build_.Keep(base_, Site::kAttnOut, layer);
      if (freeze.mlp[l]) build_.trunk(trunk_).mlp_out[l] = build_.Keep(base_, Site::kMlpOut, layer);
    }
    run::RowPlan& plan = build_.row(row);
    plan.fork = run::ForkPlan{trunk_, start, altered.front()};
    plan.freeze = std::move(freeze);
    plan.edits = std::move(edits);
    plan.metrics = std::move(metrics);
    return row;
  }

  // The base run with the receiver reading what the sender's run has kept.
  void AddCell(uint32_t index, uint32_t cell, const PathEnd& receiver, run::Point felt, const std::vector<int64_t>& altered,
               const std::vector<int64_t>& where, const std::map<std::pair<int64_t, Site>, Heard>& said) {
    const Pair& pair = paths_.pairs[index];
    run::Point start{arch_.layers, Part::kFinal};
    for (const PathNode& node : receiver.nodes)
      if (felt <= ReadsAt(node, arch_.layers)) start = std::min(start, ReadsAt(node, arch_.layers));
    // Where the receiver listens and hears nothing new it reads the base run's value, also when an earlier part of it has changed that.
    std::vector<int64_t> silent;
    for (int64_t p : receiver.positions[index])
      if (p > where.front() && !std::binary_search(where.begin(), where.end(), p)) silent.push_back(p);
    std::vector<run::EditPlan> edits;
    for (const PathNode& node : receiver.nodes) {
      if (felt > ReadsAt(node, arch_.layers)) continue;  // in front of everything that changes
      if (!silent.empty() && ReadsAt(node, arch_.layers) > start)
        edits.push_back({{node.site, node.layer, silent, node.heads, {}},
                         intervention::Copy{build_.Keep(base_, node.site, node.layer), silent, node.heads, {}}});
      const Heard& heard = said.at({node.layer, node.site});
      edits.push_back({{node.site, node.layer, where, node.heads, {}},
                       intervention::Copy{heard.key, PlacesIn(altered, where), PlacesIn(heard.heads, node.heads), {}}});
    }
    build_.BeginsAt(trunk_, base_, start);
    run::RowPlan& row = build_.NewRow({Is::kCell, index, cell}, pair.base_ids, kCellWave);
    row.fork = run::ForkPlan{trunk_, start, where.front()};
    row.edits = std::move(edits);
    row.metrics = MetricsFrom(where);
  }

  const PathPlan& paths_;
  const size_t max_rows_;
  const model::Architecture& arch_;
  PieceBuilder build_;
  size_t kept_ = 0;
  // Of the pair that is being planned:
  size_t base_ = 0, source_ = 0, trunk_ = 0;
  std::vector<run::MetricPlan> metrics_;  // of cells
};

}  // namespace

Piece PlanPaths(const PathPlan& paths, size_t begin, size_t max_rows) { return PathPlanner(paths, max_rows).Plan(begin); }

Pieces PiecesOf(PathPlan paths) {
  const auto plan = std::make_shared<const PathPlan>(std::move(paths));
  return {plan->cells(), [plan](size_t begin, size_t max_rows) { return PlanPaths(*plan, begin, max_rows); },
          [plan](size_t place) { return plan->FinishedAt(place); }};
}

api::SweepCost CostOf(const PathPlan& paths) {
  return CostOf({paths.cells(), [&](size_t begin, size_t max_rows) { return PlanPaths(paths, begin, max_rows); }}, paths.model,
                paths.pairs);
}

uint64_t LargestSenderBytes(const PathPlan& paths) {
  uint64_t most = 0;
  for (size_t at = 0; at < paths.cells();) {
    const Piece piece = PlanPaths(paths, at, 1);
    most = std::max(most, run::CostOf(piece.plan).peak_bytes);
    at = piece.end;
  }
  return most;
}

}  // namespace fluoroscope::sweep
