#include "run/unsent.h"

#include <algorithm>
#include <map>
#include <utility>

#include "run/batch_pool.h"
#include "run/sizes.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;
using model::Part;
using model::Site;

// Of a buffer, what results may be that a shared batch holds beside it: large enough for the captures of short prompts, small enough that
// the estimate of a run of many batches stays close to what a reader that stops makes it hold.
constexpr int64_t kHeldShare = 8;

// The piece of BatchRun's work in which a row comes past a place: 0 is the embedding; a layer's input belongs to the piece before the
// layer.
int64_t PieceOf(const Place& place, const RowPlan& row, const Architecture& arch) {
  const Part part = model::SpecOf(place.site).part;
  switch (part) {
    case Part::kEmbedding:
      return 0;
    case Part::kBlockInput:
      return 2 * place.layer;
    case Part::kAttention: {
      // One that begins with its hook_resid_mid shows it in the MLP's piece.
      const bool begins = place.site == Site::kResidMid && row.joins() == Point{place.layer, Part::kMlp};
      return 2 * place.layer + (begins ? 2 : 1);
    }
    case Part::kMlp:
      return 2 * place.layer + 2;
    case Part::kFinal:
      return 2 * arch.layers + 1;
  }
  return 0;
}

// Whether the result is lines of a matrix with several rows' lines (RowHooks sends those without a copy).
bool SharesLines(const CapturePlan& capture) {
  const Site site = capture.place.site;
  return !capture.reduced() && capture.place.heads.empty() && capture.place.units.empty() && site != Site::kAttnScores &&
         site != Site::kPattern && site != Site::kResult;
}

}  // namespace

BatchResults ResultsOf(const RunPlan& plan, const std::vector<size_t>& batch) {
  const Architecture& arch = plan.model->arch;
  const int64_t element_size = static_cast<int64_t>(c10::elementSize(plan.model->dtype));
  BatchResults results;
  std::map<int64_t, int64_t> pieces;
  struct Lines {
    int64_t bytes = 0, captures = 0;
  };
  std::map<std::pair<int64_t, Site>, Lines> shared;
  int64_t longest_logits = 0, short_logits = 0, short_rows = 0, widest_line = 0;
  for (const size_t index : batch) {
    const RowPlan& row = plan.rows[index];
    for (const CapturePlan& capture : row.captures) {
      if (capture.keep_seconds > 0) continue;
      const int64_t bytes = CaptureBytes(capture, row, arch, ElementSize(capture.place, element_size));
      results.captures += bytes;
      if (capture.lens) {  // each in a piece of its own
        results.captures_piece = std::max(results.captures_piece, bytes);
        continue;
      }
      pieces[PieceOf(capture.place, row, arch)] += bytes;
      if (!SharesLines(capture)) continue;
      Lines& lines = shared[{capture.place.layer, capture.place.site}];
      lines.bytes += bytes;
      ++lines.captures;
    }
    if (!row.logits) continue;
    const int64_t bytes = LogitsBytes(row, arch, element_size), positions = static_cast<int64_t>(row.logits->positions.size());
    results.logits += bytes;
    if (!row.logits->columns.empty() || positions > kPositionsPerStep) {
      longest_logits = std::max(longest_logits, bytes);
    } else {
      short_logits += bytes;
      ++short_rows;
      widest_line = std::max(widest_line, bytes / std::max<int64_t>(1, positions));
    }
  }
  for (const auto& [_, bytes] : pieces) results.captures_piece = std::max(results.captures_piece, bytes);
  for (const auto& [_, lines] : shared)
    if (lines.captures > 1) results.shared = std::max(results.shared, lines.bytes);
  // A step's positions may be the end of a long row, which is sent in one, and short rows.
  const int64_t short_step = std::min(short_logits, kPositionsPerStep * widest_line);
  results.logits_piece = longest_logits + short_step;
  if (short_rows > 1) results.shared = std::max(results.shared, short_step);
  return results;
}

bool MayHold(const RunPlan& plan, const BatchResults& results, int64_t before) {
  return before + results.all() <= plan.buffer_bytes || results.all() <= plan.buffer_bytes / kHeldShare;
}

bool Pools(const RunPlan& plan, const std::vector<size_t>& batch, const BatchResults& results, int64_t before) {
  int64_t lines = 0;
  for (const size_t index : batch) lines += plan.rows[index].lines();
  return !plan.isolated && BatchPool::Takes(lines) && MayHold(plan, results, before);
}

int64_t UnsentBytes(const RunPlan& plan, int64_t all, int64_t at_once) {
  return plan.buffer_bytes >= all ? all : std::min(all, plan.buffer_bytes + at_once);
}

}  // namespace fluoroscope::run
