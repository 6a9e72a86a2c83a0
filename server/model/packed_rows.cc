#include "model/packed_rows.h"

#include <algorithm>

namespace fluoroscope::model {

int64_t RowSpan::LineOf(int64_t position) const {
  if (positions.empty()) return -1;
  // The usual case: positions without gaps.
  const int64_t offset = position - positions.front();
  if (offset >= 0 && offset < size() && positions[static_cast<size_t>(offset)] == position) return begin + offset;
  const auto it = std::lower_bound(positions.begin(), positions.end(), position);
  return it != positions.end() && *it == position ? begin + (it - positions.begin()) : -1;
}

PackedRows::PackedRows(std::vector<RowSpan> rows) : rows_(std::move(rows)) {
  int64_t slots = 0;
  for (const RowSpan& row : rows_) slots = std::max(slots, row.slot + 1);
  place_.assign(static_cast<size_t>(slots), -1);
  for (size_t i = 0; i < rows_.size(); ++i) {
    rows_[i].begin = tokens_;
    tokens_ += rows_[i].size();
    place_[static_cast<size_t>(rows_[i].slot)] = static_cast<int64_t>(i);
  }
}

const RowSpan* PackedRows::Find(int64_t slot) const {
  if (slot >= static_cast<int64_t>(place_.size())) return nullptr;
  const int64_t place = place_[static_cast<size_t>(slot)];
  return place < 0 ? nullptr : &rows_[static_cast<size_t>(place)];
}

at::Tensor PackedRows::Positions(at::Device device) const {
  std::vector<int64_t> all;
  all.reserve(static_cast<size_t>(tokens_));
  for (const RowSpan& row : rows_) all.insert(all.end(), row.positions.begin(), row.positions.end());
  return IndexTensor(all, device);
}

at::Tensor PackedRows::LinesOf(const PackedRows& subset, at::Device device) const {
  std::vector<int64_t> lines;
  lines.reserve(static_cast<size_t>(subset.tokens()));
  for (const RowSpan& row : subset.rows()) {
    const RowSpan* here = Find(row.slot);
    for (int64_t position : row.positions) lines.push_back(here->LineOf(position));
  }
  return IndexTensor(lines, device);
}

at::Tensor TakeLines(const at::Tensor& x, const at::Tensor& lines) { return at::index(x, {lines}); }

at::Tensor IndexTensor(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
}

}  // namespace fluoroscope::model
