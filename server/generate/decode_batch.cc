#include "generate/decode_batch.h"

#include <utility>

namespace fluoroscope::generate {

DecodeBatch::DecodeBatch(const model::Model& model, std::vector<GeneratingRow*> rows)
    : model_(model), rows_(std::move(rows)), hooks_(model, rows_) {}

bool DecodeBatch::Step() {
  if (layer_ == 0) Begin();
  if (layer_ == model_.arch.layers) {
    Finish();
    return false;
  }
  x_ = model::Visit(hooks_, model::Site::kResidPre, layer_, lines_, std::move(x_));
  x_ = model::AttentionPart(model_, layer_, x_, lines_, lines_, angles_, hooks_);
  x_ = model::MlpPart(model_, layer_, x_, lines_, hooks_);
  ++layer_;
  return true;
}

void DecodeBatch::Begin() {
  std::vector<model::RowSpan> spans;
  std::vector<int64_t> ids;
  for (GeneratingRow* row : rows_) {
    row->cache().Reserve(row->row().length());
    model::RowSpan& span = spans.emplace_back();
    span.slot = static_cast<int64_t>(ids.size());
    span.positions = {row->position()};
    span.prefix = &row->cache().prefix();
    span.prefix_size = row->position();
    ids.push_back(row->row().ids.back());
  }
  lines_ = model::PackedRows(std::move(spans));
  angles_ = model::AnglesOf(model_, lines_);
  x_ = model::Embed(model_, model::IndexTensor(ids, model_.device), lines_, hooks_);
}

void DecodeBatch::Finish() {
  const at::Tensor normalized = model::FinalNorm(model_, x_, lines_, hooks_);
  const at::Tensor logits = model::Unembed(model_, normalized, /*columns=*/{}).to(at::kFloat).to(at::kCPU).contiguous();
  const at::Tensor log_probabilities = at::log_softmax(logits, -1);
  for (size_t i = 0; i < rows_.size(); ++i) {
    const auto line = static_cast<int64_t>(i);
    rows_[i]->Accept(logits.select(0, line), log_probabilities.select(0, line));
    hooks_.SendCaptures(i);
  }
}

}  // namespace fluoroscope::generate
