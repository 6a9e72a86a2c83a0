// The same as estimate_test.cc for path patching and attribution.
#include <map>
#include <string>
#include <vector>

#include "engine/grid_work.h"
#include "tests/server/engine/estimates.h"

namespace fluoroscope::engine {
namespace {

using api::AttributionMethod;
using api::EdgeMethod;
using api::SweepAxis;

class GridEstimateTest : public EstimateTest {
 protected:
  const config::ServerConfig config_;

  template <typename Request>
  void Check(const std::string& name, const Request& request, const LoadedModel& model) {
    const auto sink = std::make_shared<SweepEnd>();
    absl::StatusOr<GridWork> work = WorkOf(model, request, {config_}, metrics_, {sink, std::chrono::steady_clock::now()});
    ASSERT_TRUE(work.ok()) << name << ": " << work.status();
    Finish(*work->work);
    ASSERT_TRUE(sink->status.ok()) << name << ": " << sink->status;
    Compare(name, work->peak_bytes, sink->summary.peak_bytes);
  }
};

std::vector<api::SweepPair> Pairs(int64_t count, int64_t length) {
  const std::vector<api::Prompt> clean = Prompts(count, length), corrupt = Prompts(count, length);
  std::vector<api::SweepPair> pairs;
  for (size_t i = 0; i < clean.size(); ++i) pairs.push_back({clean[i], corrupt[i], std::nullopt, {}});
  return pairs;
}

std::vector<api::Metric> Metrics(size_t count) {
  std::vector<api::Metric> metrics(count, MetricOf(api::LogitDifference{{int64_t{3}}, {int64_t{4}}}, false));
  for (size_t i = 0; i < count; ++i) metrics[i].name = "m" + std::to_string(i);
  return metrics;
}

api::AttributionRequest Nodes(std::vector<std::string> sites, AttributionMethod method, int64_t length, size_t metrics = 1) {
  api::AttributionRequest request;
  request.grid.pairs = Pairs(2, length);
  request.grid.sites = std::move(sites);
  request.grid.over = {SweepAxis::kLayer, SweepAxis::kPosition};
  if (request.grid.sites.size() > 1) request.grid.over.insert(request.grid.over.begin(), SweepAxis::kSite);
  request.grid.metrics = Metrics(metrics);
  request.method = method;
  request.steps = 2;
  return request;
}

// Every head and MLP as a node of its own, the embedding, and what they are heard by.
api::PathRequest Graph(const model::Architecture& arch, int64_t length, const std::vector<std::string>& heard, size_t metrics = 1) {
  api::PathRequest request;
  request.pairs = Pairs(2, length);
  request.metrics = Metrics(metrics);
  const auto add = [](std::vector<api::PathEnd>& to, const std::string& site, std::vector<uint32_t> heads) {
    to.push_back({"", {{site, std::move(heads)}}, {}});
  };
  add(request.senders, "hook_embed", {});
  for (int64_t layer = 0; layer < arch.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    for (uint32_t head = 0; head < arch.heads; ++head) add(request.senders, block + "attn.hook_z", {head});
    add(request.senders, block + "hook_mlp_out", {});
    for (const std::string& letter : heard) {
      if (letter == "logits") continue;
      if (letter == "mlp") {
        add(request.receivers, block + "hook_mlp_in", {});
        continue;
      }
      for (uint32_t head = 0; head < (letter == "q" ? arch.heads : arch.kv_heads); ++head)
        add(request.receivers, block + "attn.hook_" + letter, {head});
    }
  }
  if (heard.back() == "logits") add(request.receivers, "logits", {});
  return request;
}

std::string NameOf(const std::string& what, int64_t length, size_t metrics) {
  return what + ", " + std::to_string(length) + " tokens, " + std::to_string(metrics) + " metrics";
}

constexpr std::pair<AttributionMethod, const char*> kMethods[] = {{AttributionMethod::kAttributionPatching, "atp"},
                                                                  {AttributionMethod::kGradientTimesInput, "gxi"},
                                                                  {AttributionMethod::kIntegratedGradients, "ig"},
                                                                  {AttributionMethod::kQkFix, "qk fix"},
                                                                  {AttributionMethod::kAtpStar, "atp*"},
                                                                  {AttributionMethod::kIntegratedActivations, "ig activations"}};

using Sites = std::vector<std::string>;

const std::vector<Sites> kEverywhere = {{"hook_resid_pre"},
                                        {"attn.hook_z"},
                                        {"attn.hook_k"},
                                        {"mlp.hook_post"},
                                        {"hook_mlp_out"},
                                        {"attn.hook_pattern"},
                                        {"hook_resid_mid", "hook_attn_out"}};

TEST_F(GridEstimateTest, Nodes) {
  // Where methods differ: some make the passes of others, or more of them.
  const std::map<AttributionMethod, std::vector<Sites>> sites = {
      {AttributionMethod::kAttributionPatching, kEverywhere},
      {AttributionMethod::kGradientTimesInput, {{"mlp.hook_post"}}},
      {AttributionMethod::kIntegratedGradients, kEverywhere},
      {AttributionMethod::kQkFix, {{"attn.hook_q"}, {"attn.hook_k"}}},
      {AttributionMethod::kAtpStar, {{"hook_resid_pre"}, {"attn.hook_k"}, {"attn.hook_pattern"}}},
      {AttributionMethod::kIntegratedActivations, {{"attn.hook_z"}, {"attn.hook_pattern"}, {"hook_resid_mid", "hook_attn_out"}}}};
  for (const auto& [method, name] : kMethods)
    for (const Sites& some : sites.at(method)) {
      Check(NameOf(std::string(name) + " at " + some.front(), 160, 1), Nodes(some, method, 160, 1), *model_);
      Check(NameOf(std::string(name) + " at " + some.front(), 40, 2), Nodes(some, method, 40, 2), *model_);
    }
}

TEST_F(GridEstimateTest, NodesOfAnotherFamily) {
  const std::unique_ptr<LoadedModel> model = Offer(model::MediumGpt2());
  for (const auto& [method, name] : kMethods) {
    if (method == AttributionMethod::kGradientTimesInput || method == AttributionMethod::kQkFix) continue;  // here: the same passes
    for (const char* site : {"attn.hook_z", "attn.hook_pattern", "mlp.hook_post"})
      Check(NameOf(std::string("gpt2: ") + name + " at " + site, 100, 1), Nodes({site}, method, 100), *model);
  }
}

TEST_F(GridEstimateTest, NodesThatAreVerified) {
  // Few cells fit into the passes' memory at once, and many are run piece by piece.
  for (const uint32_t count : {5, 200})
    for (const auto& [site, length] : {std::pair("attn.hook_z", 16), std::pair("attn.hook_z", 64), std::pair("attn.hook_pattern", 32)}) {
      api::AttributionRequest request = Nodes({site}, AttributionMethod::kAttributionPatching, length);
      request.verify = {count, count, 1};
      Check(NameOf("verified " + std::to_string(count) + " at " + site, length, 1), request, *model_);
    }
}

TEST_F(GridEstimateTest, Edges) {
  const model::Architecture& arch = model_->model->arch;
  for (const auto& [method, name] : {std::pair{EdgeMethod::kEap, "eap"}, std::pair{EdgeMethod::kEapIg, "eap ig"},
                                     std::pair{EdgeMethod::kEapIgActivations, "eap ig activations"}})
    for (const auto& [length, verify] : {std::pair(24, false), std::pair(24, true), std::pair(100, false)}) {
      api::EdgesRequest request;
      request.paths = Graph(arch, length, {"q", "k", "v", "mlp", "logits"}, 2);
      request.method = method;
      request.steps = 2;
      if (verify) request.verify = {10, 10, 1};
      Check(NameOf(std::string(name) + (verify ? ", verified" : ""), length, 2), request, *model_);
    }
}

TEST_F(GridEstimateTest, Paths) {
  const model::Architecture& arch = model_->model->arch;
  for (const std::vector<std::string>& heard : {std::vector<std::string>{"logits"}, {"q", "k", "v", "mlp", "logits"}, {"mlp"}})
    for (const bool freeze : {false, true})
      for (const int64_t length : {16, 50}) {
        if (heard.size() > 1 && length > 16) continue;  // takes seconds
        api::PathRequest request = Graph(arch, length, heard);
        request.freeze_mlps = freeze;
        request.freeze_norms = freeze && heard.size() == 1;
        Check(NameOf("paths to " + heard.front() + (freeze ? ", frozen" : ""), length, 1), request, *model_);
      }
}

}  // namespace
}  // namespace fluoroscope::engine
