// Requests that share a model's pool, stepped by hand.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/plan_builder.h"
#include "obs/metrics.h"
#include "run/batch_pool.h"
#include "run/forward_run.h"
#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::run {

// Collects; after each tensor it wants no more while `slow`.
class ReaderSink final : public api::ForwardSink {
 public:
  bool Push(api::ForwardPart part) override {
    const bool tensor = std::holds_alternative<api::NamedTensor>(part);
    got.Push(std::move(part));
    return !(slow && tensor);
  }
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status end) override {
    EXPECT_FALSE(status.has_value()) << "finished twice";
    status = std::move(end);
  }

  engine::CollectingSink got;
  std::optional<absl::Status> status;
  bool slow = false;
};

inline api::Intervention EditOf(std::vector<std::string> sites, decltype(api::Intervention::kind) kind, std::vector<uint32_t> rows = {}) {
  api::Intervention edit;
  edit.select.sites = std::move(sites);
  edit.select.rows = std::move(rows);
  edit.kind = std::move(kind);
  return edit;
}

struct PooledRun {
  std::shared_ptr<ReaderSink> sink = std::make_shared<ReaderSink>();
  std::unique_ptr<ForwardRun> run;
  bool done = false;

  sched::Work::Progress Step() {
    const sched::Work::Progress progress = run->Step();
    done = progress == sched::Work::Progress::kDone;
    return progress;
  }
};

class PoolFixture : public testing::Test {
 protected:
  using Progress = sched::Work::Progress;

  PoolFixture() : model_(engine::Offer(model::TinyLlama())), pool_(std::make_shared<BatchPool>(model_->model, "tiny", metrics_)) {
    at::manual_seed(3);
  }

  api::ForwardRequest Request(std::vector<int64_t> lengths) const {
    api::ForwardRequest request;
    for (int64_t length : lengths)
      request.prompts.push_back({engine::RandomIds(model_->model->arch.vocabulary, length), api::Bos::kDefault, false});
    return request;
  }

  // Admitted, like all that are started before the first of them is stepped.
  PooledRun Start(const api::ForwardRequest& request, const std::function<void(RunPlan&)>& change = {},
                  std::unique_ptr<CaptureKeeper> keeper = nullptr) {
    absl::StatusOr<engine::BuiltPlan> built = engine::BuildPlan(*model_, request, config::Limits());
    EXPECT_TRUE(built.ok()) << built.status();
    if (change) change(built->plan);
    api::ForwardHeader header;
    header.provenance.model = "tiny";
    PooledRun run;
    run.run = std::make_unique<ForwardRun>(std::move(built->plan), std::move(header), run.sink, metrics_, std::chrono::steady_clock::now(),
                                           pool_, std::move(keeper));
    run.run->Admitted();
    return run;
  }

  // In turns, as the executor does.
  static void Finish(const std::vector<PooledRun*>& runs) {
    for (bool any = true; any;) {
      any = false;
      for (PooledRun* run : runs)
        if (!run->done) any = run->Step() != Progress::kDone || any;
    }
  }

  // What a request gives by itself, tensor by tensor and metric by metric, within `limit`; bit for bit when it is 0.
  void ExpectSameAsAlone(const PooledRun& run, const api::ForwardRequest& request, double limit) const {
    ASSERT_TRUE(run.sink->status && run.sink->status->ok()) << (run.sink->status ? run.sink->status->ToString() : "not finished");
    ExpectSame(run.sink->got, *engine::RunRequest(*model_, request), limit);
  }
  static void ExpectSame(const engine::CollectingSink& got, const engine::CollectingSink& expected, double limit) {
    ASSERT_EQ(got.tensors.size(), expected.tensors.size());
    for (const api::NamedTensor& tensor : expected.tensors) {
      const at::Tensor a = got.Get(tensor.name, tensor.row, tensor.part), b = expected.Get(tensor.name, tensor.row, tensor.part);
      ASSERT_EQ(a.sizes(), b.sizes()) << tensor.name;
      const double difference = at::where(at::eq(a, b), at::zeros({}), (a - b).abs()).max().item<double>();
      EXPECT_LE(difference, limit) << tensor.name << " of row " << tensor.row;
    }
    ASSERT_EQ(got.summary.metrics.size(), expected.summary.metrics.size());
    for (size_t i = 0; i < got.summary.metrics.size(); ++i) {
      EXPECT_EQ(got.summary.metrics[i].name, expected.summary.metrics[i].name);
      EXPECT_NEAR(got.summary.metrics[i].value, expected.summary.metrics[i].value, limit) << got.summary.metrics[i].name;
    }
    EXPECT_EQ(got.summary.tokens, expected.summary.tokens);
  }

  // How many batches had rows of exactly so many requests.
  int BatchesOf(int requests) const {
    const auto at_most = [&](int bound) {
      const std::string line = "fluoroscope_batch_requests_bucket{model=\"tiny\",le=\"" + std::to_string(bound) + "\"} ";
      const std::string text = metrics_.Serialize();
      const size_t found = text.find(line);
      return found == std::string::npos ? 0 : std::stoi(text.substr(found + line.size()));
    };
    return at_most(requests) - (requests > 1 ? at_most(requests / 2) : 0);
  }

  obs::Metrics metrics_;
  const std::unique_ptr<engine::LoadedModel> model_;
  const std::shared_ptr<BatchPool> pool_;
};

}  // namespace fluoroscope::run
