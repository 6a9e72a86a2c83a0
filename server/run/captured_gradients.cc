#include "run/captured_gradients.h"

namespace fluoroscope::run {

void CapturedGradients::Step() {
  const RowPlan& row = lane_.plan.rows[next_row_];
  if (row_ == nullptr) {
    row_ = std::make_unique<RowGradients>(*lane_.plan.model, lane_, row);
    tokens_ += static_cast<uint64_t>(row.length());
  }
  if (row_->Step()) return;
  row_.reset();
  ++next_row_;
  FindRow();
}

void CapturedGradients::FindRow() {
  while (!done() && lane_.plan.rows[next_row_].gradients.empty()) ++next_row_;
}

}  // namespace fluoroscope::run
