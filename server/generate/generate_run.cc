#include "generate/generate_run.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "obs/metrics.h"

namespace fluoroscope::generate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kUnchargedBytes = 1 << 20;

// Whether generated tokens still need what the prompts' rows kept: of all edits that act on them, means do.
bool ReadsKept(const ContinuationPlan& continuation) {
  const auto is_mean = [](const run::EditPlan& edit) { return std::holds_alternative<intervention::Mean>(edit.edit); };
  return std::any_of(continuation.edits.begin(), continuation.edits.end(), is_mean);
}

}  // namespace

GenerateRun::GenerateRun(GeneratePlan plan, api::ForwardHeader header, std::shared_ptr<DecodePool> pool,
                         std::shared_ptr<api::ForwardSink> sink, obs::Metrics& metrics, Clock::time_point arrived, PrefixUse prefixes,
                         std::shared_ptr<run::BatchPool> batching)
    : plan_(std::move(plan)),
      prefixes_(std::move(prefixes)),
      header_(std::move(header)),
      pool_(std::move(pool)),
      sink_(std::move(sink)),
      metrics_(metrics),
      out_(sink_),
      batching_(std::move(batching)),
      arrived_(arrived) {}

// What earlier generations have left is copied, and the prompts are made known to the pool.
void GenerateRun::Begin() {
  if (std::exchange(began_, true)) return;
  const absl::StatusOr<bool> taken = meter_.Step([this] {
    prefixes_.Take(plan_);
    return false;
  });
  failed_ = taken.status();
  if (!failed_.ok()) return;
  metrics_.AddReusedTokens(header_.provenance.model, prefixes_.reused_tokens());
  prompts_ = std::make_unique<PromptRun>(plan_.prompts, header_.provenance.model, out_, metrics_, meter_, batching_, [this] { Start(); });
  prompts_->Enter();
}

void GenerateRun::Start() {
  if (std::exchange(started_, true)) return;
  queue_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - arrived_).count();
  out_.Push(header_);
}

sched::Work::Progress GenerateRun::StepPrompts() {
  if (absl::Status status = prompts_->Step(); !status.ok()) return Fail(std::move(status));
  if (prompts_->done()) {
    tokens_ = prompts_->tokens();
    kept_ = prompts_->TakeKept();
    prompts_.reset();
  }
  return Progress::kMore;
}

sched::Work::Progress GenerateRun::Step() {
  if (succeeded_) return Sent();
  Begin();
  if (!failed_.ok()) return Fail(failed_);
  if (prompts_ != nullptr && prompts_->pooled()) return StepPrompts();  // rows in a pool do not wait for a reader
  Start();
  if (!out_.wants_more()) {
    if (!drained_.exchange(false)) return Progress::kBlocked;
    (void)out_.TakeWantsMore();
  }
  if (prompts_ != nullptr) return StepPrompts();
  if (LeavePrompt()) return Progress::kMore;
  bool done = false;
  const absl::StatusOr<bool> more = meter_.Step([&] {
    const bool joined_before = joined_;
    done = !Piece();
    return !done && out_.wants_more() && joined_ == joined_before;
  });
  if (!more.ok()) return Fail(more.status());
  if (!failed_.ok()) return Fail(failed_);
  if (!done) return Progress::kMore;
  Succeed();
  return Sent();
}

// Unsent results stay charged: the work ends when the sink has sent them (run::ForwardRun::Ended). Small ones are not worth the wait.
sched::Work::Progress GenerateRun::Sent() const {
  return out_.captured_bytes() < kUnchargedBytes || sink_->AllSent() ? Progress::kDone : Progress::kBlocked;
}

void GenerateRun::OnStep(size_t clients, size_t rows) { metrics_.ObserveBatch(header_.provenance.model, clients, rows, rows); }

// It may be another run's turn, which goes on at once and may need what these rows held.
void GenerateRun::OnDecodeFailed(absl::Status why) {
  failed_ = std::move(why);
  rows_.clear();
  kept_.clear();
}

// False when nothing is left.
bool GenerateRun::Piece() {
  if (StartRow()) return true;
  // A step of the pool may be under way that somebody else's turn ends; until all have their last token, there is one.
  const auto finished = [](const GeneratingRow& row) { return row.finished(); };
  if (!failed_.ok() || std::all_of(rows_.begin(), rows_.end(), finished)) return false;
  pool_->Step();
  return failed_.ok() && !std::all_of(rows_.begin(), rows_.end(), finished);
}

// Makes the next continuation: its keys and values begin as a copy of its prompt's. False when all are there.
bool GenerateRun::StartRow() {
  if (joined_) return false;
  const size_t all = plan_.continuations.size() * plan_.samples;
  if (started_rows_ < all) {
    const ContinuationPlan& continuation = plan_.continuations[started_rows_ / plan_.samples];
    const auto sample = static_cast<uint32_t>(started_rows_ % plan_.samples);
    const auto take = [&](const std::vector<size_t>& keys) {
      std::vector<at::Tensor> tensors;
      for (const size_t key : keys) tensors.push_back(kept_[key]);
      return tensors;
    };
    const run::RowPlan& prompt = plan_.prompts.rows[continuation.prompt];
    KvCache cache(take(continuation.k), take(continuation.v), prompt.length() + plan_.max_new_tokens,
                  prompt.prefix ? prompt.prefix->kv.get() : nullptr, prompt.first());
    GeneratingRow& row = rows_.emplace_back(plan_, continuation, sample, std::move(cache), kept_, out_);
    const at::Tensor logits = kept_[continuation.logits].select(0, 0).to(at::kCPU);
    row.Accept(logits.clone(), at::log_softmax(logits, -1));
    ++started_rows_;
    failed_ = row.failure();
    return failed_.ok();
  }
  if (std::none_of(plan_.continuations.begin(), plan_.continuations.end(), ReadsKept)) kept_.clear();
  for (run::RowPlan& row : plan_.prompts.rows)
    if (row.prefix) row.prefix->kv.reset();
  for (GeneratingRow& row : rows_)
    if (!row.finished()) pool_->Join(row, *this);
  joined_ = true;
  return true;
}

// Leaves the next continuation's prompt for later generations, beside what the run is charged for. False when there is none to be left.
bool GenerateRun::LeavePrompt() {
  if (!joined_ || left_prompts_ == plan_.continuations.size()) return false;
  auto row = rows_.begin();
  std::advance(row, left_prompts_++ * plan_.samples);
  prefixes_.Leave(plan_, *row);
  return true;
}

sched::Work::Progress GenerateRun::Fail(absl::Status why) {
  if (absl::IsResourceExhausted(why)) metrics_.CountRejection(obs::Rejection::kOutOfMemory);
  Abort(std::move(why));
  return Progress::kDone;
}

void GenerateRun::Succeed() {
  succeeded_ = true;
  api::ForwardSummary summary;
  // Each row's last token is not run.
  for (GeneratingRow& row : rows_) {
    tokens_ += static_cast<uint64_t>(row.generated() - 1);
    prefixes_.Leave(plan_, row);
  }
  Release();
  metrics_.AddCapturedBytes(out_.captured_bytes());
  summary.tokens = tokens_;
  summary.queue_ms = queue_ms_;
  summary.run_ms = meter_.run_ms();
  summary.peak_bytes = meter_.peak_bytes();
  summary.reused_tokens = prefixes_.reused_tokens();
  summary.warnings = plan_.prompts.warnings;
  out_.Push(std::move(summary));
  sink_->Finish(absl::OkStatus());
}

void GenerateRun::Release() {
  if (joined_) pool_->Leave(*this);  // else it has no rows there, and this may be another thread
  rows_.clear();
  kept_.clear();
  prompts_.reset();
}

void GenerateRun::Abort(absl::Status why) {
  Release();
  sink_->Finish(std::move(why));
}

}  // namespace fluoroscope::generate
