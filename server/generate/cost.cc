#include "generate/cost.h"

#include <algorithm>

#include "generate/kv_cache.h"
#include "run/peak.h"

namespace fluoroscope::generate {
namespace {

using model::Architecture;

// Bytes of one captured token in a row that ends up `length` tokens long.
int64_t CaptureBytes(const run::CapturePlan& capture, const Architecture& arch, int64_t length, int64_t element_size) {
  const std::vector<model::Axis>& axes = model::SpecOf(capture.place.site).axes;
  const auto size = [&](model::Axis axis) { return axis == model::Axis::kKey ? length : model::SizeOf(axis, arch); };
  int64_t lines = 1;
  for (size_t i = 0; i + 1 < axes.size(); ++i) {
    const bool position = axes[i] == model::Axis::kPosition || axes[i] == model::Axis::kQuery;
    const bool head = axes[i] == model::Axis::kHead || axes[i] == model::Axis::kKvHead;
    if (!position) lines *= head && !capture.place.heads.empty() ? static_cast<int64_t>(capture.place.heads.size()) : size(axes[i]);
  }
  if (capture.top_k > 0) return lines * capture.top_k * (element_size + 8);
  if (capture.directions.defined()) return lines * capture.directions.size(0) * 4;
  const int64_t last = capture.place.units.empty() ? size(axes.back()) : static_cast<int64_t>(capture.place.units.size());
  return lines * last * std::max<int64_t>(4, element_size);  // norms' sites are float32
}

}  // namespace

run::Cost CostOf(const GeneratePlan& plan) {
  const Architecture& arch = plan.prompts.model->arch;
  const int64_t element = static_cast<int64_t>(c10::elementSize(plan.prompts.model->dtype));
  const int64_t samples = plan.samples;
  run::Cost cost = run::CostOf(plan.prompts);
  bool reads_kept = false;
  int64_t caches = 0, first_caches = 0, growing = 0, results = 0, rows = 0, longest = 0, edits = 0;
  double flops = 0;
  for (const ContinuationPlan& continuation : plan.continuations) {
    const int64_t prompt = plan.prompts.rows[continuation.prompt].length(), length = prompt + plan.max_new_tokens;
    const int64_t position = 2 * arch.layers * arch.kv_size() * element;
    caches += samples * length * position;
    first_caches += samples * std::min(length, prompt + kFirstBlock) * position;
    growing = std::max(growing, length * arch.kv_size() * element);  // one layer's, for the moment in which it is copied
    for (const run::CapturePlan& capture : continuation.captures)
      results += samples * (plan.max_new_tokens - 1) * CaptureBytes(capture, arch, length, element);
    for (const run::EditPlan& edit : continuation.edits) reads_kept = reads_kept || std::holds_alternative<intervention::Mean>(edit.edit);
    if (!continuation.edits.empty()) edits = std::max(edits, arch.heads * (arch.d_model + length) + arch.d_mlp);
    rows += samples;
    longest = std::max(longest, length);
    const double per_token =
        static_cast<double>(arch.layers) *
            (static_cast<double>(arch.d_model * (2 * arch.q_size() + 2 * arch.kv_size() + (arch.gated_mlp ? 3 : 2) * arch.d_mlp)) +
             2 * static_cast<double>(arch.q_size() * length)) +
        static_cast<double>(arch.d_model * arch.vocabulary);
    flops += 2 * static_cast<double>(samples * (plan.max_new_tokens - 1)) * per_token;
    cost.tokens += static_cast<uint64_t>(samples * (plan.max_new_tokens - 1));
  }
  const int64_t batch = plan.prompts.isolated ? 1 : std::min(rows, run::kPositionsPerStep);
  // Logits, their logarithms, in half precision also as they were; then what choosing one row's token takes.
  const int64_t logits = batch * arch.vocabulary * (8 + (element == 4 ? 0 : element)) + 4 * arch.vocabulary * 4;
  const int64_t layer = batch * (8 * arch.d_model + 3 * (arch.q_size() + 2 * arch.kv_size()) + 4 * arch.d_mlp) * element;
  // Where our own attention does not apply, or somebody looks inside: keys and values of one row put together, and its scores.
  const int64_t attention = 2 * (arch.q_size() + arch.kv_size()) * longest * element + 4 * arch.heads * longest * element;
  const int64_t edited = edits * 6 * static_cast<int64_t>(sizeof(float)) + (edits > 0 ? batch * arch.heads * arch.d_model * element : 0);
  cost.reply_bytes += static_cast<uint64_t>(results);
  // First the prompts run; then each continuation copies what its prompt kept, which is let go when all have begun (but for what means
  // read); then they grow.
  const int64_t kept = static_cast<int64_t>(cost.kept_bytes), prompts_results = static_cast<int64_t>(cost.reply_bytes) - results;
  const int64_t begin = kept + prompts_results + first_caches + 4 * arch.vocabulary * 4;
  const int64_t still_kept = reads_kept ? kept : static_cast<int64_t>(plan.prompts.given_bytes);  // given tensors stay with their edits
  const int64_t steps = still_kept + prompts_results + caches + growing + results + logits + layer + attention + edited;
  cost.peak_bytes = std::max(cost.peak_bytes, static_cast<uint64_t>(std::max(begin, steps)) + run::kSlackBytes);
  cost.flops += flops;
  return cost;
}

}  // namespace fluoroscope::generate
