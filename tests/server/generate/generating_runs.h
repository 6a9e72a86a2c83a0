// Generations on a tiny model, stepped by hand.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "config/config.h"
#include "engine/generate_builder.h"
#include "generate/generate_run.h"
#include "obs/metrics.h"
#include "run/batch_pool.h"
#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::generate {

// Takes tokens; wants no more after each of them while `slow`.
class TokenSink final : public api::ForwardSink {
 public:
  bool Push(api::ForwardPart part) override {
    if (const auto* end = std::get_if<api::ForwardSummary>(&part)) summary = *end;
    const auto* token = std::get_if<api::GeneratedToken>(&part);
    if (token == nullptr) return true;
    ids.push_back(token->id);
    return !slow;
  }
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status end) override { status = std::move(end); }

  std::vector<int64_t> ids;
  api::ForwardSummary summary;
  std::optional<absl::Status> status;
  bool slow = false;
};

class GeneratingRuns : public testing::Test {
 protected:
  using Progress = sched::Work::Progress;

  void SetUp() override { Offer(model::TinyLlama()); }

  // The model of the runs that are started from now on.
  void Offer(std::shared_ptr<const model::Model> model) {
    std::unique_ptr<engine::LoadedModel> offered = engine::Offer(std::move(model));
    offered->decoding = std::make_shared<DecodePool>(offered->model);
    offered->batching = std::make_shared<run::BatchPool>(offered->model, "tiny", metrics_);
    model_ = std::move(offered);
  }

  struct Run {
    std::shared_ptr<TokenSink> sink = std::make_shared<TokenSink>();
    std::shared_ptr<GenerateRun> run;
    bool done = false;

    Progress Step() {
      const Progress progress = run->Step();
      done = progress == Progress::kDone;
      return progress;
    }
  };

  Run Start(std::vector<int64_t> ids, uint32_t tokens, const std::function<void(GeneratePlan&)>& change = {}, PrefixUse prefixes = {}) {
    api::GenerateRequest request;
    request.model = "tiny";
    request.prompts.push_back({.input = api::TokenIds(std::move(ids))});
    request.max_new_tokens = tokens;
    absl::StatusOr<engine::BuiltGeneration> built = engine::BuildGeneration(model_, request, config::Limits());
    EXPECT_TRUE(built.ok()) << built.status();
    if (change) change(built->plan);
    Run run;
    run.run = std::make_shared<GenerateRun>(std::move(built->plan), api::ForwardHeader(), model_->decoding, run.sink, metrics_,
                                            std::chrono::steady_clock::now(), std::move(prefixes), model_->batching);
    return run;
  }

  std::vector<int64_t> Alone(std::vector<int64_t> ids, uint32_t tokens) {
    Run run = Start(std::move(ids), tokens);
    while (run.Step() != Progress::kDone) {
    }
    EXPECT_TRUE(run.sink->status->ok()) << *run.sink->status;
    return run.sink->ids;
  }

  // In turns, as the executor does.
  static void Finish(std::vector<Run*> runs) {
    for (bool any = true; any;) {
      any = false;
      for (Run* run : runs)
        if (!run->done) any = run->Step() != Progress::kDone || any;
    }
  }

  obs::Metrics metrics_;  // outlives the pools
  std::shared_ptr<engine::LoadedModel> model_;
};

}  // namespace fluoroscope::generate
