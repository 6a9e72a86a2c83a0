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
  std::unique_ptr<ForwardRun> Start(const engine::LoadedModel& model, const api::ForwardRequest& request, bool pooled) {
    absl::StatusOr<engine::BuiltPlan> built = engine::BuildPlan(model, request, config::Limits());
    EXPECT_TRUE(built.ok()) << built.status();
    auto run = std::make_unique<ForwardRun>(std::move(built->plan), api::ForwardHeader(), sink_, metrics_, std::chrono::steady_clock::now(),
                                            pooled ? std::make_shared<BatchPool>(model.model, "tiny", metrics_) : nullptr);
    run->Admitted();
    return run;
  }
  static api::ForwardRequest Long(const engine::LoadedModel& model, int prompts) {
    api::ForwardRequest request;
    for (int i = 0; i < prompts; ++i) request.prompts.push_back({engine::RandomIds(model.model->arch.vocabulary, 60)});
    return request;
  }

  obs::Metrics metrics_;
  const std::shared_ptr<OrderSink> sink_ = std::make_shared<OrderSink>();
};

TEST_F(ForwardHeaderTest, WithTheFirstResult) {
  const auto model = engine::Offer(model::TinyLlama());
  for (const bool pooled : {false, true}) {
    sink_->parts.clear();
    api::ForwardRequest request = Long(*model, 1);
    request.captures = {engine::CaptureOf({"blocks.1.hook_mlp_out", "blocks.0.hook_resid_post"})};
    const auto run = Start(*model, request, pooled);
    while (run->Step() != sched::Work::Progress::kDone) {
    }
    EXPECT_TRUE(sink_->status.ok()) << sink_->status;
    EXPECT_EQ(sink_->parts, "htts");
    sink_->parts.clear();
    request.captures.clear();  // results are none
    const auto silent = Start(*model, request, pooled);
    while (silent->Step() != sched::Work::Progress::kDone) EXPECT_LE(sink_->parts.size(), 1u);
    EXPECT_EQ(sink_->parts, "hs");
  }
}

TEST_F(ForwardHeaderTest, ByItselfWhenResultsTakeLong) {
  const auto model = engine::Offer(model::MediumLlama());
  for (const bool pooled : {false, true}) {
    sink_->parts.clear();
    api::ForwardRequest request = Long(*model, 16);
    request.captures = {engine::CaptureOf({"blocks.5.hook_resid_post"})};  // the last layer's
    const auto run = Start(*model, request, pooled);
    (void)run->Step();
    std::this_thread::sleep_for(std::chrono::milliseconds(60));  // the other runs' turns
    (void)run->Step();
    EXPECT_EQ(sink_->parts, "h");
    while (run->Step() != sched::Work::Progress::kDone) {
    }
    EXPECT_EQ(sink_->parts, "h" + std::string(16, 't') + "s");
  }
}

}  // namespace
}  // namespace fluoroscope::run
