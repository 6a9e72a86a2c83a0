// A generation that needs more memory than there is fails by itself: others that step with it go on, and nothing of it stays behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tensor/counting_allocator.h"
#include "tests/server/generate/generating_runs.h"

namespace fluoroscope::generate {
namespace {

uint64_t LiveBytes() { return tensor::Stats().work.live_bytes; }

class DecodeMemoryTest : public GeneratingRuns {
 protected:
  DecodeMemoryTest() { tensor::InstallCountingAllocator(); }
  void SetUp() override { Offer(model::MediumLlama()); }
  void TearDown() override { tensor::SetCap(UINT64_MAX); }

  // A request with many continuations of its one prompt.
  Run StartMany(std::vector<int64_t> ids, uint32_t tokens, uint32_t samples) {
    return Start(std::move(ids), tokens, [samples](GeneratePlan& plan) {
      plan.samples = samples;
      plan.sampling.temperature = 1;
    });
  }

  // Until its rows have their first tokens and are in the pool: a step ends there, so none of them has made another.
  static void Join(Run& run, size_t rows) {
    while (run.sink->ids.size() < rows) run.Step();
    run.Step();  // leaves the prompt, or joins if the time was over before
    ASSERT_EQ(run.sink->ids.size(), rows);
  }

  void ExpectRefused(const Run& run) {
    ASSERT_TRUE(run.done);
    EXPECT_EQ(run.sink->status->code(), absl::StatusCode::kResourceExhausted) << *run.sink->status;
    EXPECT_THAT(std::string(run.sink->status->message()), testing::HasSubstr("more bytes are needed while"));
    EXPECT_NE(metrics_.Serialize().find("fluoroscope_rejections_total{reason=\"out_of_memory\"} 1\n"), std::string::npos);
  }

  // Whether some batch had rows of three requests.
  bool SteppedTogether() const {
    const auto at_most = [text = metrics_.Serialize()](int bound) {
      const std::string line = "fluoroscope_batch_requests_bucket{model=\"\",le=\"" + std::to_string(bound) + "\"} ";
      const size_t found = text.find(line);
      return found == std::string::npos ? 0 : std::stoi(text.substr(found + line.size()));
    };
    return at_most(4) > at_most(2);
  }
};

TEST_F(DecodeMemoryTest, AStepThatGoesOverTheCapFailsItsCauseAlone) {
  const std::vector<int64_t> first = Alone({1, 2, 3}, 12), second = Alone({5, 4}, 7);
  const uint64_t before = LiveBytes();
  Run greedy = StartMany({7}, 12, 64), a = Start({1, 2, 3}, 12), b = Start({5, 4}, 7);
  Join(greedy, 64);
  Join(a, 1);
  Join(b, 1);
  tensor::SetCap(LiveBytes() + (1 << 20));  // one row's step needs 50 KiB, 64 rows' need 3 MiB
  Finish({&a, &greedy, &b});
  ExpectRefused(greedy);
  EXPECT_EQ(greedy.sink->ids.size(), 64u) << "its first tokens came from the prompt";
  EXPECT_TRUE(SteppedTogether());
  ASSERT_TRUE(a.sink->status->ok() && b.sink->status->ok()) << *a.sink->status << *b.sink->status;
  EXPECT_EQ(a.sink->ids, first);
  EXPECT_EQ(b.sink->ids, second);
  a = b = greedy = Run();
  EXPECT_EQ(LiveBytes(), before);
}

// All caches are full at the same step; those of the two small runs may have grown, or be half grown, when the memory is out. Whoever's
// rows are in front, a small run does not step beside what the large one has left; and that fails in a small one's turn, which goes on at
// once.
class GrowingCachesTest : public DecodeMemoryTest, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(LargestJoins, GrowingCachesTest, testing::Values(true, false),
                         [](const auto& first) { return std::string(first.param ? "First" : "Last"); });

TEST_P(GrowingCachesTest, OverTheCapFailTheirCauseAlone) {
  const uint32_t tokens = kFirstBlock + 16;
  const std::vector<int64_t> first = Alone({1, 2, 3}, tokens), second = Alone({5, 4, 3}, tokens);
  const uint64_t before = LiveBytes();
  Run greedy = StartMany({7, 8, 9}, 200, 16), a = Start({1, 2, 3}, tokens), b = Start({5, 4, 3}, tokens);
  if (GetParam()) Join(greedy, 16);
  Join(a, 1);
  Join(b, 1);
  if (!GetParam()) Join(greedy, 16);
  tensor::SetCap(LiveBytes() + (3 << 20));  // each of the 16 caches grows by 402 KiB; a step takes 50 KiB a row
  Finish({&a, &greedy, &b});
  ExpectRefused(greedy);
  EXPECT_EQ(greedy.sink->ids.size(), size_t{16} * (kFirstBlock + 1)) << "it went on until its caches were full";
  EXPECT_TRUE(SteppedTogether());
  ASSERT_TRUE(a.sink->status->ok() && b.sink->status->ok()) << *a.sink->status << *b.sink->status;
  EXPECT_EQ(a.sink->ids, first);
  EXPECT_EQ(b.sink->ids, second);
  a = b = greedy = Run();
  EXPECT_EQ(LiveBytes(), before);
}

// Each continuation begins with a copy of its prompt's keys and values.
TEST_F(DecodeMemoryTest, CopiesOfAPromptOverTheCapFailTheirRequestAlone) {
  const std::vector<int64_t> first = Alone({1, 2, 3}, 12);
  const uint64_t before = LiveBytes();
  Run a = Start({1, 2, 3}, 12), greedy = StartMany({7}, 12, 256);
  Join(a, 1);
  tensor::SetCap(LiveBytes() + (1 << 20));
  while (greedy.Step() != Progress::kDone) {
  }
  ExpectRefused(greedy);
  EXPECT_GT(greedy.sink->ids.size(), 0u);
  EXPECT_LT(greedy.sink->ids.size(), 256u);
  Finish({&a});
  ASSERT_TRUE(a.sink->status->ok()) << *a.sink->status;
  EXPECT_EQ(a.sink->ids, first);
  a = greedy = Run();
  EXPECT_EQ(LiveBytes(), before);
}

}  // namespace
}  // namespace fluoroscope::generate
