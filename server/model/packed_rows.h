// How the rows of a batch lie in one packed [tokens, d] matrix: one after the other, without padding.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "model/kv_prefix.h"

namespace fluoroscope::model {

// One row's tokens in the packed matrix.
struct RowSpan {
  int64_t slot = 0;                // which row of the batch; stays the same when other rows leave
  int64_t begin = 0;               // first line in the packed matrix
  std::vector<int64_t> positions;  // absolute position of each of its lines, ascending
  // Its queries also see the first `prefix_size` positions of `prefix`; its own lines are then the positions from there on.
  const KvPrefix* prefix = nullptr;
  int64_t prefix_size = 0;

  int64_t size() const { return static_cast<int64_t>(positions.size()); }
  // The packed line that holds an absolute position; -1 if that position is not there.
  int64_t LineOf(int64_t position) const;
};

// A value type; `begin` of each span is kept right by the two ways to make one.
class PackedRows {
 public:
  PackedRows() = default;
  explicit PackedRows(std::vector<RowSpan> rows);  // lays them out in this order

  const std::vector<RowSpan>& rows() const { return rows_; }
  const RowSpan* Find(int64_t slot) const;
  int64_t tokens() const { return tokens_; }

  // Absolute positions of all lines, i64 [tokens].
  at::Tensor Positions(at::Device device) const;

  // Where the lines of `subset` (fewer rows, or fewer positions of them) are in this layout: i64 [subset.tokens()].
  at::Tensor LinesOf(const PackedRows& subset, at::Device device) const;

 private:
  std::vector<RowSpan> rows_;
  std::vector<int64_t> place_;  // by slot: its index in rows_, -1 without one
  int64_t tokens_ = 0;
};

// The given lines of x, i64 [n] -> [n, ...]. (index_select has no kernel for the meta device, which the tests run on.)
at::Tensor TakeLines(const at::Tensor& x, const at::Tensor& lines);

// An i64 tensor of these values.
at::Tensor IndexTensor(const std::vector<int64_t>& values, at::Device device);

}  // namespace fluoroscope::model
