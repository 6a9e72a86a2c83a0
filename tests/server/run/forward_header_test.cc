// When a run's header goes out: with the first result, so that nobody is woken while the cores are busy, or by itself when that takes long.
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "tests/server/run/pooled_run.h"

namespace fluoroscope::run {
namespace {

// The parts in the order in which they came: h, t and s.
class OrderSink final : public api::ForwardSink {
 public:
  bool Push(api::ForwardPart part) override {
    parts += std::holds_alternative<api::ForwardHeader>(part) ? 'h' : std::holds_alternative<api::NamedTensor>(part) ? 't' : 's';
    return true;
  }
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status end) override { status = std::move(end); }

  std::string parts;
  absl::Status status = absl::UnknownError("not finished");
};

class ForwardHeaderTest : public testing::Test {
 protected:
  struct Started {
    std::shared_ptr<OrderSink> sink = std::make_shared<OrderSink>();
    std::unique_ptr<ForwardRun> run;
    void Finish() const {
      while (run->Step() != sched::Work::Progress::kDone) {
      }
      EXPECT_TRUE(sink->status.ok()) << sink->status;
    }
  };
  Started Start(const engine::LoadedModel& model, const api::ForwardRequest& request, std::shared_ptr<BatchPool> pool = nullptr) {
    absl::StatusOr<engine::BuiltPlan> built = engine::BuildPlan(model, request, config::Limits());
    EXPECT_TRUE(built.ok()) << built.status();
    Started started;
    started.run = std::make_unique<ForwardRun>(std::move(built->plan), api::ForwardHeader(), started.sink, metrics_,
                                               std::chrono::steady_clock::now(), std::move(pool));
    started.run->Admitted();
    return started;
  }
  std::shared_ptr<BatchPool> PoolOf(const engine::LoadedModel& model) { return std::make_shared<BatchPool>(model.model, "m", metrics_); }
  static api::ForwardRequest Request(const engine::LoadedModel& model, int prompts, std::vector<std::string> sites) {
    api::ForwardRequest request;
    for (int i = 0; i < prompts; ++i) request.prompts.push_back({engine::RandomIds(model.model->arch.vocabulary, 60)});
    if (!sites.empty()) request.captures = {engine::CaptureOf(std::move(sites))};
    return request;
  }

  obs::Metrics metrics_;
};

TEST_F(ForwardHeaderTest, WithTheFirstResult) {
  const auto model = engine::Offer(model::TinyLlama());
  for (const auto& pool : {std::shared_ptr<BatchPool>(), PoolOf(*model)}) {
    const Started run = Start(*model, Request(*model, 1, {"blocks.1.hook_mlp_out", "blocks.0.hook_resid_post"}), pool);
    run.Finish();
    EXPECT_EQ(run.sink->parts, "htts");
    const Started silent = Start(*model, Request(*model, 1, {}), pool);
    silent.Finish();
    EXPECT_EQ(silent.sink->parts, "hs");
  }
}

// Alone, and as two in a shared batch, whose results wait for its end. The results are the last layer's.
TEST_F(ForwardHeaderTest, ByItselfWhenResultsTakeLong) {
  const auto model = engine::Offer(model::MediumLlama(/*d_mlp=*/8192));
  for (const auto& pool : {std::shared_ptr<BatchPool>(), PoolOf(*model)}) {
    std::vector<Started> runs;
    for (int i = 0; i < (pool == nullptr ? 1 : 2); ++i)
      runs.push_back(Start(*model, Request(*model, 4, {"blocks.5.hook_resid_post"}), pool));
    for (const Started& started : runs) (void)started.run->Step();
    std::this_thread::sleep_for(std::chrono::milliseconds(60));  // another run's turn
    for (const Started& started : runs) (void)started.run->Step();
    if (runs.front().sink->parts.size() > 1) GTEST_SKIP() << "this machine is too fast: all results are there";
    for (const Started& started : runs) EXPECT_EQ(started.sink->parts, "h");
    for (const Started& started : runs) started.Finish();
    for (const Started& started : runs) EXPECT_EQ(started.sink->parts, "htttts");
  }
  EXPECT_NE(metrics_.Serialize().find("fluoroscope_batch_requests_bucket{model=\"m\",le=\"1\"} 0"), std::string::npos)
      << "the two were not in one batch";
}

}  // namespace
}  // namespace fluoroscope::run
