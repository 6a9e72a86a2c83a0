// What runs of a shared batch report as their cost: their share, by lines, of what ran.
#include "tensor/counting_allocator.h"
#include "tests/server/run/pooled_run.h"

namespace fluoroscope::run {
namespace {

class PoolCostsTest : public PoolFixture {
 protected:
  PoolCostsTest() { tensor::InstallCountingAllocator(); }

  api::ForwardRequest Looks(std::vector<int64_t> lengths) const {
    api::ForwardRequest request = Request(std::move(lengths));
    request.captures = {engine::CaptureOf({"blocks.*.hook_resid_post"})};
    return request;
  }
  static uint64_t PeakOf(const PooledRun& run) {
    EXPECT_TRUE(run.sink->status && run.sink->status->ok());
    return run.sink->got.summary.peak_bytes;
  }
};

// Steps runs and measures their batch as StepMeter says that it is done, from outside.
class Measure {
 public:
  void Step(PooledRun& run) {
    const uint64_t before = tensor::Stats().work.live_bytes;
    tensor::ResetPeak();
    (void)run.Step();
    const tensor::AccountStats memory = tensor::Stats().work;
    peak_ = std::max(peak_, held_ + memory.peak_bytes - before);
    held_ = std::max<int64_t>(0, held_ + static_cast<int64_t>(memory.live_bytes) - static_cast<int64_t>(before));
  }
  uint64_t peak() const { return static_cast<uint64_t>(peak_); }

 private:
  int64_t held_ = 0;
  uint64_t peak_ = 0;
};

TEST_F(PoolCostsTest, SharesAreByLines) {
  PooledRun a = Start(Looks({14})), b = Start(Looks({7, 7, 14}));
  Measure measure;
  while (!a.done || !b.done) measure.Step(a.done ? b : a);
  EXPECT_GT(measure.peak(), 0u);
  EXPECT_EQ(PeakOf(a), measure.peak() * 14 / 42);
  EXPECT_EQ(PeakOf(b), measure.peak() * 28 / 42);
}

// Those who stay do not pay for the one who left: what was held with its rows is shared by all who were there when the batch began.
TEST_F(PoolCostsTest, AfterSomebodyLeft) {
  PooledRun a = Start(Looks({14})), b = Start(Looks({14})), gone = Start(Looks({28}));
  Measure measure;
  measure.Step(a);  // the embedding of all three
  EXPECT_EQ(BatchesOf(4), 0) << "still open";
  gone.run->Abort(absl::CancelledError("gone"));
  gone.run.reset();
  while (!a.done || !b.done) measure.Step(a.done ? b : a);
  EXPECT_EQ(PeakOf(a), measure.peak() * 14 / 56);
  EXPECT_EQ(PeakOf(b), measure.peak() * 14 / 56);
  EXPECT_EQ(a.sink->got.summary.tokens, 14u);
}

// A batch that begins anew with more rows costs what the same rows cost that began together.
TEST_F(PoolCostsTest, AfterABatchBeganAnew) {
  PooledRun a = Start(Looks({10})), b = Start(Looks({20}));
  Finish({&a, &b});
  const uint64_t of_a = PeakOf(a), of_b = PeakOf(b);
  EXPECT_EQ(BatchesOf(2), 1);
  PooledRun first = Start(Looks({10}));
  first.Step();
  PooledRun second = Start(Looks({20}));
  Finish({&first, &second});
  EXPECT_EQ(BatchesOf(2), 2) << "it began anew, with both";
  EXPECT_EQ(BatchesOf(1), 0);
  EXPECT_EQ(PeakOf(first), of_a);
  EXPECT_EQ(PeakOf(second), of_b);
  EXPECT_NEAR(static_cast<double>(of_b), 2 * static_cast<double>(of_a), 1) << "by lines";
  EXPECT_EQ(first.sink->got.summary.tokens, 10u);
  EXPECT_EQ(second.sink->got.summary.tokens, 20u);
}

}  // namespace
}  // namespace fluoroscope::run
