#include "attribution/attribution_cost.h"

#include <algorithm>

#include "intervention/column_metrics.h"
#include "run/cost.h"
#include "run/gradient_run_peak.h"

namespace fluoroscope::attribution {
namespace {

using api::AttributionMethod;
using model::Site;

// Index tensors, angles and scores: what is too small to be counted one by one.
constexpr uint64_t kSlackBytes = uint64_t{1} << 16;

// Passes over the base prompt beside the base run, in whole ones: forward, and backward for each metric.
struct PassCount {
  double forward = 0, backward = 1;
};

PassCount CountOf(const Way& way, const model::Architecture& arch) {
  if (way.steps == 0) return {0, 1};
  double passes = way.inside ? 0 : 1;
  for (const Place& place : way.places) passes += static_cast<double>(arch.layers - place.second) / static_cast<double>(arch.layers);
  passes *= static_cast<double>(way.steps);
  return {passes, passes};
}

// The operations of all passes: base run, source run and these.
double FlopsOf(const std::shared_ptr<const model::Model>& model, const std::vector<sweep::Pair>& pairs, PassCount passes) {
  double flops = 0;
  for (const sweep::Pair& pair : pairs) {
    run::RunPlan forwards;
    forwards.model = model;
    const auto add = [&](const std::vector<int64_t>& ids, const std::vector<run::MetricPlan>& metrics) {
      run::RowPlan& row = forwards.rows.emplace_back();
      row.ids = ids;
      row.metrics = metrics;
    };
    add(pair.base_ids, pair.base_metrics);
    add(pair.source_ids, pair.source_metrics);
    forwards.waves = {{0, 1}};
    forwards.Finish();
    // A backward pass in the values alone costs what a forward pass does.
    const double backward = passes.backward * static_cast<double>(pair.base_metrics.size());
    flops += run::CostOf(forwards).flops * (1 + 0.5 * (passes.forward + backward));
  }
  return flops;
}

// What one pair's passes need to be known of.
struct Passes {
  Way way;
  std::set<Site> plain, with_gradients;  // what runs keep
  bool repeats = false;                  // passes follow that begin with a complete one's gradients
  int64_t scores = 0;                    // bytes that scores are made with
  int64_t sums = 0;                      // bytes that scores are kept in
};

// A metric's value and gradient in the last line: logits of the whole vocabulary, or the tokens' columns.
int64_t MetricBytes(const model::Model& model, const std::vector<run::MetricPlan>& metrics) {
  int64_t most = 0;
  for (const run::MetricPlan& metric : metrics) {
    const auto tokens = static_cast<int64_t>(intervention::WeightedTokensOf(metric.metric).size());
    most = std::max(most, tokens > 0 ? 2 * tokens * model.arch.d_model : 5 * model.arch.vocabulary);
  }
  return most * static_cast<int64_t>(sizeof(float));
}

// The moments of pair_passes.cc, one after the other.
int64_t PeakOf(const model::Model& model, const sweep::Pair& pair, const Passes& passes) {
  const int64_t layers = model.arch.layers, tokens = static_cast<int64_t>(pair.base_ids.size());
  const bool integrated = passes.way.steps > 0;
  run::GradientShape base{tokens, tokens, layers, integrated ? passes.plain : passes.with_gradients, !integrated, true};
  if (passes.way.inside) base.sites.insert(Site::kResidPre);
  const int64_t source_tokens = static_cast<int64_t>(pair.source_ids.size());
  const run::GradientShape source{source_tokens - CommonTokens(pair, passes.plain), source_tokens, layers, passes.plain, false, false};
  const run::GradientMemory of_base = run::MemoryOf(model, base), of_source = run::MemoryOf(model, source);
  // The base run; then the source run beside it.
  int64_t peak = std::max(of_base.kept + of_base.forward, of_base.kept + of_source.kept + of_source.forward);

  run::GradientMemory graph = of_base;  // of the run that is differentiated
  int64_t beside = of_source.kept;      // of what is there meanwhile
  if (integrated) {
    // A run between both, which begins with a residual of its own.
    run::GradientShape between{tokens, tokens, layers, passes.with_gradients, true, false};
    beside += of_base.kept + run::SiteBytes(model, Site::kResidPre, tokens);
    int64_t replaced = 0;
    if (passes.way.inside) {
      between.blocks = 0;
      for (const auto& [site, layer] : passes.way.places) {
        between.blocks = std::max(between.blocks, layers - layer);
        replaced = std::max(replaced, run::SiteBytes(model, site, tokens));
      }
      if (passes.way.places.empty()) return peak;
    }
    graph = run::MemoryOf(model, between);
    beside += 3 * replaced;  // what goes on instead, the graph's copy of it, and its gradient
    peak = std::max(peak, beside + graph.kept + graph.forward);
  }
  beside += MetricBytes(model, pair.base_metrics);
  // The backward pass begins: the whole graph, and what one block's derivative takes.
  peak = std::max(peak, beside + graph.kept + graph.backward);
  // It ends: all gradients, and the graph, unless it was freed on the way; then scores are made, or another metric's pass is.
  const bool freed = pair.base_metrics.size() == 1 && !passes.repeats;
  const int64_t complete = (freed ? graph.values : graph.kept) + graph.gradients + (passes.repeats ? graph.repeated : 0);
  peak = std::max(peak, beside + complete + std::max(passes.scores, freed ? 0 : graph.backward));
  return peak + passes.sums;
}

// Cells that are also run. Which ones it will be is not known, but as many are run at a time as fit into the passes' memory
// (Pieces::fits), so only the smallest piece can need more.
void AddExact(double all_flops, uint64_t smallest, const api::CellChoice& choice, size_t cells, size_t metrics, api::SweepCost& cost) {
  const double chosen = static_cast<double>(choice.top) * static_cast<double>(metrics) + static_cast<double>(choice.random);
  cost.flops += all_flops * std::min(1.0, chosen / static_cast<double>(cells));
  cost.peak_bytes = std::max(cost.peak_bytes, smallest);
}

// In float64, for every head: the new patterns, and what they are made of (attention_effects.cc).
int64_t AttentionEffectBytes(const AttributionPlan& plan, int64_t tokens) {
  if (!plan.fixes_attention()) return 0;
  const std::vector<Site>& sites = plan.sweep.grid.sites;
  const int64_t patterns = std::any_of(sites.begin(), sites.end(), IsKey) ? 18 : std::any_of(sites.begin(), sites.end(), IsQuery) ? 7 : 0;
  return patterns * plan.sweep.model->arch.heads * tokens * tokens * static_cast<int64_t>(sizeof(double));
}

}  // namespace

api::SweepCost CostOf(const AttributionPlan& plan) {
  const model::Model& model = *plan.sweep.model;
  const sweep::Grid& grid = plan.sweep.grid;
  Passes passes{WayOf(plan), SitesOf(plan, false), SitesOf(plan, true), plan.method == AttributionMethod::kAtpStar, 0, 0};
  PassCount count = CountOf(passes.way, model.arch);
  // Without a layer, a backward pass takes what lies in front of that one.
  if (passes.repeats) count.backward = static_cast<double>(model.arch.layers + 1) / 2;
  api::SweepCost cost;
  cost.flops = FlopsOf(plan.sweep.model, plan.sweep.pairs, count);
  cost.cells = plan.sweep.cells();
  for (const sweep::Pair& pair : plan.sweep.pairs) {
    const int64_t tokens = static_cast<int64_t>(pair.base_ids.size()), metrics = static_cast<int64_t>(pair.base_metrics.size());
    passes.scores = AttentionEffectBytes(plan, tokens);
    passes.sums = 0;
    for (const Site site : grid.sites) {
      // The change, its product with the gradient, and that in float64.
      const int64_t bytes = run::SiteBytes(model, site, tokens);
      passes.scores = std::max(passes.scores, 4 * bytes);
      const model::SiteSpec& spec = model::SpecOf(site);
      const int heads = model::HeadAxis(spec);
      const int64_t places = tokens * (heads < 0 ? 1 : model::SizeOf(spec.axes[static_cast<size_t>(heads)], model.arch)) *
                             static_cast<int64_t>(std::max<size_t>(grid.units.size(), 1));
      passes.sums += metrics * model.arch.layers * places * static_cast<int64_t>(sizeof(double));
    }
    cost.peak_bytes = std::max(cost.peak_bytes, static_cast<uint64_t>(PeakOf(model, pair, passes)) + kSlackBytes);
  }
  if (plan.verify.top + plan.verify.random > 0)
    AddExact(sweep::CostOf(plan.sweep).flops, sweep::LargestCellBytes(plan.sweep), plan.verify, grid.cells(),
             plan.sweep.pairs.front().base_metrics.size(), cost);
  return cost;
}

api::SweepCost CostOf(const EdgePlan& plan) {
  const sweep::PathPlan& paths = plan.paths;
  const model::Model& model = *paths.model;
  Passes passes{WayOf(plan), SitesOf(plan, false), SitesOf(plan, true), false, 0, 0};
  api::SweepCost cost;
  cost.flops = FlopsOf(paths.model, paths.pairs, CountOf(passes.way, model.arch));
  cost.cells = paths.cells();
  const int64_t metrics = static_cast<int64_t>(paths.pairs.front().base_metrics.size());
  const std::vector<NodeCount> counts = NodeCountsOf(plan);
  for (const sweep::Pair& pair : paths.pairs) {
    const int64_t tokens = static_cast<int64_t>(pair.base_ids.size());
    passes.scores = passes.sums = 0;
    for (const NodeCount& nodes : counts) {
      const int64_t line =
          std::min(tokens, PositionsAtOnce(nodes, model.arch.d_model)) * model.arch.d_model * static_cast<int64_t>(sizeof(float));
      const int64_t edges = nodes.senders * nodes.receivers;
      // Changes or gradients one by one, put together, and masked; then their product, in float32 and float64.
      const int64_t made = std::max(3 * nodes.senders, nodes.senders + 3 * nodes.receivers) * line + 6 * line;
      const int64_t multiplied = (nodes.senders + nodes.receivers) * line + edges * 20;
      passes.scores = std::max({passes.scores, made, multiplied});
      passes.sums += edges * (metrics + 1) * static_cast<int64_t>(sizeof(double));
    }
    cost.peak_bytes = std::max(cost.peak_bytes, static_cast<uint64_t>(PeakOf(model, pair, passes)) + kSlackBytes);
  }
  if (plan.verify.top + plan.verify.random > 0)
    AddExact(sweep::CostOf(DirectPaths(plan)).flops, sweep::LargestSenderBytes(DirectPaths(plan)), plan.verify,
             paths.senders.size() * paths.receivers.size(), static_cast<size_t>(metrics), cost);
  return cost;
}

}  // namespace fluoroscope::attribution
