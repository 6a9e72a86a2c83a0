// What tests of estimates share: requests, and the comparison with what the counting allocator saw.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "api/sweep.h"
#include "engine/loaded_model.h"
#include "engine/sweep_builder.h"
#include "generate/decode_pool.h"
#include "obs/metrics.h"
#include "sched/work.h"
#include "sweep/sweep_run.h"
#include "tensor/counting_allocator.h"
#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::engine {

// An estimate may be so much larger than what was held, and so much smaller.
inline constexpr double kMostOver = 1.25, kMostUnder = 1.0;

class SweepEnd final : public api::SweepSink {
 public:
  bool Push(api::SweepPart part) override {
    if (auto* end = std::get_if<api::SweepSummary>(&part)) summary = *end;
    return true;
  }
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status end) override { status = std::move(end); }

  api::SweepSummary summary;
  absl::Status status = absl::UnknownError("not finished");
};

template <typename Run>
void Finish(Run& run) {
  while (run.Step() != sched::Work::Progress::kDone) {
  }
}

inline std::vector<api::Prompt> Prompts(int64_t count, int64_t length) {
  std::vector<api::Prompt> prompts;
  for (int64_t i = 0; i < count; ++i) prompts.push_back({RandomIds(4096, length), api::Bos::kDefault, false});
  return prompts;
}

inline api::Metric MetricOf(decltype(api::Metric::kind) kind, bool everywhere, std::vector<uint32_t> rows = {}) {
  api::Metric metric;
  metric.name = "m";
  metric.rows = std::move(rows);
  if (everywhere) metric.positions = api::Positions{api::AllPositions()};
  metric.kind = std::move(kind);
  return metric;
}

class EstimateTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    tensor::InstallCountingAllocator();
    model_ = Offer(model::MediumLlama());
    model_->decoding = std::make_shared<generate::DecodePool>(model_->model);
    at::manual_seed(1);
  }
  static void TearDownTestSuite() { model_.reset(); }

  static void Compare(const std::string& name, uint64_t estimated, uint64_t held) {
    const double ratio = static_cast<double>(estimated) / static_cast<double>(held);
    if (getenv("SHOW_ESTIMATES") != nullptr)
      printf("%-40s %8.2f MiB estimated, %8.2f held: %.2f\n", name.c_str(), estimated / 1048576.0, held / 1048576.0, ratio);
    EXPECT_LE(ratio, kMostOver) << name << ": " << estimated << " bytes estimated, " << held << " held";
    EXPECT_GE(ratio, kMostUnder) << name << ": " << estimated << " bytes estimated, " << held << " held";
  }

  void CompareSweep(const LoadedModel& model, const api::SweepRequest& request, const std::string& name) {
    absl::StatusOr<BuiltSweep> built = BuildSweep(model, request, config::Limits());
    ASSERT_TRUE(built.ok()) << built.status();
    const uint64_t estimated = built->header.cost.peak_bytes;
    const auto sink = std::make_shared<SweepEnd>();
    sweep::SweepRun run(sweep::PiecesOf(std::move(built->plan)), std::move(built->header), {}, sink, metrics_,
                        std::chrono::steady_clock::now());
    Finish(run);
    ASSERT_TRUE(sink->status.ok()) << sink->status;
    Compare(name, estimated, sink->summary.peak_bytes);
  }

  static inline std::shared_ptr<LoadedModel> model_;
  obs::Metrics metrics_;
};

}  // namespace fluoroscope::engine
