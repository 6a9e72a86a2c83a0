// A run stays charged until everything it sent has left, whatever it hears meanwhile. How it could end too early: the transport sees less
// than half of its buffer unsent and decides to resume; the run's last step pushes more and finishes; the decision arrives only now, or an
// executor hears it that has parked the run a moment ago, and steps it. That step must not be taken for "everything has been sent".
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>

#include "engine/generate_builder.h"
#include "engine/plan_builder.h"
#include "engine/weight_slice.h"
#include "generate/decode_pool.h"
#include "generate/generate_run.h"
#include "obs/metrics.h"
#include "run/batch_pool.h"
#include "run/forward_run.h"
#include "sched/executor.h"
#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::engine {
namespace {

using Progress = sched::Work::Progress;

// Holds what it gets until SendAll.
class HoldingSink final : public api::ForwardSink {
 public:
  bool Push(api::ForwardPart part) override {
    if (const auto* tensor = std::get_if<api::NamedTensor>(&part)) held_bytes += tensor->data.bytes.size();
    return true;
  }
  void OnDrain(std::function<void()> resume) override { resume_ = std::move(resume); }
  void Finish(absl::Status end) override {
    EXPECT_TRUE(end.ok()) << end;
    if (resume_) resume_();  // as one that was decided before and arrives now
    finished.set_value();
  }
  bool AllSent() const override { return all_sent; }
  void SendAll() {
    all_sent = true;
    if (resume_) resume_();
  }

  std::atomic<uint64_t> held_bytes = 0;
  std::atomic<bool> all_sent = false;
  std::promise<void> finished;

 private:
  std::function<void()> resume_;
};

class UnsentTest : public testing::Test {
 protected:
  UnsentTest() {
    std::unique_ptr<LoadedModel> offered = Offer(model::TinyLlama());
    offered->decoding = std::make_shared<generate::DecodePool>(offered->model);
    model_ = std::move(offered);
  }

  template <typename Request>
  Request Large(int rows = 16) const {
    Request request;
    for (int i = 0; i < rows; ++i) request.prompts.push_back({RandomIds(model_->model->arch.vocabulary, 60)});
    request.captures = {CaptureOf({"*"})};
    return request;
  }
  std::shared_ptr<run::ForwardRun> Forward(std::shared_ptr<run::BatchPool> pool = nullptr) {
    absl::StatusOr<BuiltPlan> built = BuildPlan(*model_, Large<api::ForwardRequest>(pool == nullptr ? 16 : 4), config::Limits());
    EXPECT_TRUE(built.ok()) << built.status();
    return std::make_shared<run::ForwardRun>(std::move(built->plan), api::ForwardHeader(), sink_, metrics_,
                                             std::chrono::steady_clock::now(), std::move(pool));
  }

  // To its end, and on, however often it is told to go on.
  void ExpectChargedUntilSent(
      sched::Work& work, const std::function<void()>& drained = [] {}) {
    work.Admitted();
    const std::future<void> finished = sink_->finished.get_future();
    const auto has_finished = [&] { return finished.wait_for(std::chrono::seconds(0)) == std::future_status::ready; };
    Progress progress = Progress::kMore;
    while (!has_finished()) {
      EXPECT_TRUE(progress == Progress::kMore || progress == Progress::kGoOn);
      progress = work.Step();
    }
    EXPECT_GT(sink_->held_bytes, uint64_t{1} << 20);
    EXPECT_EQ(progress, Progress::kBlocked);
    for (int old = 0; old < 3; ++old) {
      drained();
      EXPECT_EQ(work.Step(), Progress::kBlocked);
    }
    sink_->all_sent = true;
    EXPECT_EQ(work.Step(), Progress::kDone);
  }

  obs::Metrics metrics_;
  std::shared_ptr<const LoadedModel> model_;
  const std::shared_ptr<HoldingSink> sink_ = std::make_shared<HoldingSink>();
};

TEST_F(UnsentTest, AForward) {
  const auto run = Forward();
  ExpectChargedUntilSent(*run, [&] { run->OnDrained(); });
}

TEST_F(UnsentTest, AForwardInAPool) {
  const auto run = Forward(std::make_shared<run::BatchPool>(model_->model, "tiny", metrics_));
  ExpectChargedUntilSent(*run, [&] { run->OnDrained(); });
}

TEST_F(UnsentTest, AGeneration) {
  api::GenerateRequest request = Large<api::GenerateRequest>();
  request.max_new_tokens = 2;
  absl::StatusOr<BuiltGeneration> built = BuildGeneration(model_, request, config::Limits());
  ASSERT_TRUE(built.ok()) << built.status();
  generate::GenerateRun run(std::move(built->plan), api::ForwardHeader(), model_->decoding, sink_, metrics_,
                            std::chrono::steady_clock::now());
  ExpectChargedUntilSent(run, [&] { run.OnDrained(); });
}

TEST_F(UnsentTest, AReadingOfWeights) {
  WeightSlice slice;
  slice.view = at::arange(1 << 20, at::kFloat).view({1 << 10, 1 << 10});
  ASSERT_TRUE(CountSlice(slice).ok());
  const std::shared_ptr<sched::Work> read = ReadSlice(std::move(slice), nullptr, api::ForwardHeader(), sink_);
  ExpectChargedUntilSent(*read);
}

// The same with an executor that hears the old resume before it parks the run.
TEST_F(UnsentTest, AtTheExecutor) {
  struct Once final : sched::Work {
    Progress Step() override { return ended.set_value(), Progress::kDone; }
    void Abort(absl::Status) override { ADD_FAILURE(); }
    std::promise<void> ended;
  };
  sched::Executor executor({.budget_bytes = 100}, metrics_);
  const auto admitted = [&] {
    const std::string text = "\n" + metrics_.Serialize(), line = "\nfluoroscope_admitted_bytes ";
    return std::stoi(text.substr(text.find(line) + line.size()));
  };
  const auto run = Forward();
  sink_->OnDrain([&] {
    run->OnDrained();
    executor.Resume(run.get());
  });
  const auto info = [](const char* principal, uint64_t bytes) {
    sched::WorkInfo info;
    info.principal = principal;
    info.peak_bytes = bytes;
    return info;
  };
  std::future<void> finished = sink_->finished.get_future();
  executor.Submit(run, info("p", 60));
  finished.get();
  // By the time that another work has had its turn, the run has had one because of the old resume: it was first.
  for (int i = 0; i < 2; ++i) {
    const auto other = std::make_shared<Once>();
    executor.Submit(other, info("q", 1));
    other->ended.get_future().get();
  }
  EXPECT_GE(admitted(), 60);
  sink_->SendAll();
  executor.Drain(std::chrono::hours(1));
  EXPECT_EQ(admitted(), 0);
}

}  // namespace
}  // namespace fluoroscope::engine
