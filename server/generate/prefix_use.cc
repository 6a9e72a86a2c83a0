#include "generate/prefix_use.h"

#include <algorithm>
#include <span>

#include "tensor/runtime_errors.h"

namespace fluoroscope::generate {

int64_t UneditedPositions(const run::RowPlan& row) {
  int64_t first = row.length();
  for (const run::EditPlan& edit : row.edits) first = std::min(first, edit.place.positions.front());
  return first;
}

int64_t SkippablePositions(const GeneratePlan& plan, const ContinuationPlan& continuation) {
  if (plan.prompts.isolated) return 0;
  // Rows that others read from run before those; what is kept of them must be whole.
  const std::vector<size_t>& last = plan.prompts.waves.back();
  if (std::find(last.begin(), last.end(), continuation.prompt) == last.end()) return 0;
  const run::RowPlan& row = plan.prompts.rows[continuation.prompt];
  int64_t positions = std::min(UneditedPositions(row), row.length() - 1);
  for (const run::CapturePlan& capture : row.captures) positions = std::min(positions, capture.place.positions.front());
  return positions;
}

void PrefixUse::Take(GeneratePlan& plan) {
  if (cache_ == nullptr) return;
  for (const ContinuationPlan& continuation : plan.continuations) {
    const auto positions = static_cast<size_t>(SkippablePositions(plan, continuation));
    run::RowPlan& row = plan.prompts.rows[continuation.prompt];
    PrefixCache::Found found = cache_->Find(principal_, plan.prompts.model, std::span(row.ids).first(positions));
    if (found.size == 0) continue;
    reused_tokens_ += static_cast<uint64_t>(found.size);
    row.prefix = run::PrefixPlan{std::move(found.kv), found.size};
  }
}

void PrefixUse::Leave(const GeneratePlan& plan, GeneratingRow& row) {
  if (cache_ == nullptr || plan.prompts.isolated) return;
  const run::RowPlan& prompt = plan.prompts.rows[row.continuation().prompt];
  int64_t positions = UneditedPositions(prompt);
  if (positions == prompt.length() && row.edits().empty()) positions = row.position();  // the last token has not run
  const auto size = static_cast<size_t>(positions);
  (void)tensor::GuardTorch(
      [&] { cache_->Put(principal_, plan.prompts.model, std::span(row.row().ids).first(size), row.cache().prefix()); });
}

}  // namespace fluoroscope::generate
