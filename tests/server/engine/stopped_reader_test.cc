// What a run holds whose reader stops, against the estimate: the run stops too, when the sink's buffer is full, so it never holds the whole
// reply. A reader may stop at any moment. Here are one that never reads, one that always leaves the buffer as full as the run goes on with,
// and one that reads everything at once; the estimate is an upper bound for all of them, and close to what the first two make the run hold.
#include <algorithm>
#include <deque>

#include "engine/plan_builder.h"
#include "run/batch_pool.h"
#include "run/forward_run.h"
#include "tests/server/engine/estimates.h"

namespace fluoroscope::engine {
namespace {

using Progress = sched::Work::Progress;

// Counts like rpc/'s stream: "enough for now" when more than `buffer` bytes are unsent.
class BufferSink final : public api::ForwardSink {
 public:
  explicit BufferSink(uint64_t buffer) : buffer_(buffer) {}
  bool Push(api::ForwardPart part) override {
    if (const auto* end = std::get_if<api::ForwardSummary>(&part)) summary = *end;
    if (auto* tensor = std::get_if<api::NamedTensor>(&part)) {
      pushed += tensor->data.bytes.size();
      held_ += tensor->data.bytes.size();
      unsent_.push_back(std::move(tensor->data));
    }
    return WantsMore();
  }
  void OnDrain(std::function<void()>) override {}
  bool WantsMore() const override { return held_ <= buffer_; }
  bool AllSent() const override { return unsent_.empty(); }
  void Finish(absl::Status end) override { status = std::move(end); }

  void ReadDownTo(uint64_t bytes) {
    while (held_ > bytes) {
      held_ -= unsent_.front().bytes.size();
      unsent_.pop_front();
    }
  }

  uint64_t pushed = 0;
  api::ForwardSummary summary;
  absl::Status status = absl::UnknownError("not finished");

 private:
  const uint64_t buffer_;
  uint64_t held_ = 0;
  std::deque<api::Chunk> unsent_;
};

enum class Reader { kStopped, kJustEnough, kEager };

struct Seen {
  uint64_t held = 0;      // by the counting allocator, from outside
  uint64_t reported = 0;  // in the summary
  uint64_t pushed = 0;
};

class StoppedReaderTest : public EstimateTest {
 protected:
  uint64_t Buffer() const { return uint64_t{buffer_mib_} << 20; }

  BuiltPlan Build(const api::ForwardRequest& request) const {
    config::Limits limits;
    limits.sink_buffer_mib = buffer_mib_;
    absl::StatusOr<BuiltPlan> built = BuildPlan(*model_, request, limits);
    EXPECT_TRUE(built.ok()) << built.status();
    return *std::move(built);
  }

  // To the end, or to where it waits for a reader that has stopped.
  Seen Run(const api::ForwardRequest& request, Reader reader, std::shared_ptr<run::BatchPool> pool = nullptr) {
    BuiltPlan built = Build(request);
    const uint64_t before = tensor::Stats().work.live_bytes;
    Seen seen;
    const auto sink = std::make_shared<BufferSink>(Buffer());
    run::ForwardRun run(std::move(built.plan), {}, sink, metrics_, std::chrono::steady_clock::now(), std::move(pool));
    run.Admitted();
    while (true) {
      const Progress progress = run.Step();
      seen.held = std::max(seen.held, tensor::Stats().work.peak_bytes - before);  // since the step began, which resets it
      if (progress == Progress::kDone) break;
      if (reader == Reader::kEager) sink->ReadDownTo(0);
      if (progress != Progress::kBlocked) continue;
      if (reader == Reader::kStopped) break;
      sink->ReadDownTo(sink->status.ok() ? 0 : Buffer());
      run.OnDrained();
    }
    if (reader != Reader::kStopped) {
      EXPECT_TRUE(sink->status.ok()) << sink->status;
    }
    seen.reported = sink->summary.peak_bytes;
    seen.pushed = sink->pushed;
    if (!sink->status.ok()) run.Abort(absl::CancelledError("seen enough"));
    return seen;
  }

  // Where one piece of work makes results of a good part of the buffer's size, a reader that stops after a few of them holds the run when
  // much less than the bound is there: `few_pieces`. Another reader's stop comes at the bound.
  void CompareReaders(const std::string& name, const api::ForwardRequest& request, bool few_pieces = false,
                      std::shared_ptr<run::BatchPool> pool = nullptr) {
    const run::Cost cost = Build(request).cost;
    EXPECT_GT(cost.reply_bytes, 2 * Buffer()) << name << ": too small to be held up";
    const Seen stopped = Run(request, Reader::kStopped, pool);
    EXPECT_LT(stopped.pushed, cost.reply_bytes) << name << ": it did not wait";
    EXPECT_LE(stopped.held, cost.peak_bytes) << name;
    if (!few_pieces) Compare(name + ", nothing read", cost.peak_bytes, stopped.held);
    const Seen enough = Run(request, Reader::kJustEnough, pool);
    EXPECT_EQ(enough.pushed, cost.reply_bytes) << name;
    Compare(name + ", just enough read", cost.peak_bytes, enough.held);
    const Seen eager = Run(request, Reader::kEager, pool);
    EXPECT_EQ(eager.pushed, cost.reply_bytes) << name;
    EXPECT_LE(eager.held, cost.peak_bytes) << name;
    EXPECT_LE(std::max(enough.reported, eager.reported), cost.peak_bytes) << name << ": what was sent between two steps is not held";
    EXPECT_GE(enough.reported, enough.held * 9 / 10) << name;
  }

  uint32_t buffer_mib_ = 8;
};

TEST_F(StoppedReaderTest, TheResidualStream) {
  api::ForwardRequest request;
  request.prompts = Prompts(64, 64);
  request.captures = {CaptureOf({"blocks.*.hook_resid_post"})};
  CompareReaders("residual stream", request);
}

// What both send is sent twice: it must not be that one capture's lines keep the other's memory, which is then held twice and counted once.
TEST_F(StoppedReaderTest, ASiteAndAPartOfIt) {
  for (const bool part_first : {true, false}) {
    api::ForwardRequest request;
    request.prompts = Prompts(64, 64);
    request.captures = {CaptureOf({"blocks.*.hook_resid_post"}), CaptureOf({"blocks.*.hook_resid_post"})};
    request.captures[part_first ? 0 : 1].select.positions = api::Positions{int64_t{0}};
    CompareReaders("residual stream and its first position", request);
  }
}

TEST_F(StoppedReaderTest, Everything) {
  api::ForwardRequest request;
  buffer_mib_ = 32;
  request.prompts = Prompts(8, 64);
  request.captures = {CaptureOf({"*"})};
  CompareReaders("everything", request);
}

TEST_F(StoppedReaderTest, OneLongPrompt) {
  api::ForwardRequest request;
  request.prompts = Prompts(1, 256);
  request.captures = {CaptureOf({"*"})};
  CompareReaders("everything of one prompt", request, /*few_pieces=*/true,
                 std::make_shared<run::BatchPool>(model_->model, "medium", metrics_));
}

TEST_F(StoppedReaderTest, Patterns) {
  api::ForwardRequest request;
  request.prompts = Prompts(4, 200);
  request.captures = {CaptureOf({"blocks.*.attn.hook_pattern", "blocks.*.attn.hook_attn_scores"})};
  CompareReaders("patterns", request, /*few_pieces=*/true);
}

TEST_F(StoppedReaderTest, AllLogits) {
  api::ForwardRequest request;
  request.prompts = Prompts(24, 64);
  request.logits = api::LogitsRequest{api::Positions{api::AllPositions()}, {}, 0, {}};
  CompareReaders("all logits", request, /*few_pieces=*/true);
}

// Each row copies from the one in front, so each is a batch of its own, small enough for a pool.
TEST_F(StoppedReaderTest, ManySmallBatchesInAPool) {
  api::ForwardRequest request;
  request.prompts = Prompts(20, 120);
  request.captures = {CaptureOf({"blocks.*.hook_resid_post", "blocks.*.hook_mlp_out"})};
  for (uint32_t row = 1; row < 20; ++row) {
    api::Intervention edit;
    edit.select.sites = {"blocks.0.hook_resid_pre"};
    edit.select.rows = {row};
    edit.kind = api::CopyFromRow{row - 1, std::nullopt};
    request.interventions.push_back(std::move(edit));
  }
  CompareReaders("small batches", request, /*few_pieces=*/false, std::make_shared<run::BatchPool>(model_->model, "medium", metrics_));
}

TEST_F(StoppedReaderTest, CapturedGradients) {
  api::ForwardRequest request;
  request.prompts = Prompts(4, 128);
  request.metrics = {MetricOf(api::LogitDifference{{int64_t{3}}, {int64_t{4}}}, false)};
  request.captures = {CaptureOf({"*"})};
  request.captures[0].gradient_of = "m";
  CompareReaders("gradients", request);
}

// The part of a reply that is not there yet costs nothing: ten times the prompts need hardly more.
TEST_F(StoppedReaderTest, TheEstimateDoesNotGrowWithTheReply) {
  api::ForwardRequest few, many;
  few.prompts = Prompts(64, 64);
  many.prompts = Prompts(640, 64);
  few.captures = many.captures = {CaptureOf({"blocks.*.hook_resid_post"})};
  const run::Cost one = Build(few).cost, ten = Build(many).cost;
  EXPECT_EQ(ten.reply_bytes, 10 * one.reply_bytes);
  EXPECT_EQ(ten.peak_bytes, one.peak_bytes);
}

}  // namespace
}  // namespace fluoroscope::engine
