// One step of some continuations: each runs the token it took last and takes the next.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "generate/decode_hooks.h"
#include "generate/generating_row.h"
#include "model/forward.h"
#include "model/model.h"

namespace fluoroscope::generate {

// A state machine; belongs to a DecodePool, used on the executor's thread. What LibTorch throws passes through: the rows that have not
// taken their token then are as they were and may run again. One line a row lies in the batch, which sees the row's cache.
class DecodeBatch {
 public:
  // `model` and the rows, at least one, outlive it.
  DecodeBatch(const model::Model& model, std::vector<GeneratingRow*> rows);

  // Does the next piece: a layer, or what lies behind the last. False when all rows have their token.
  bool Step();

  const std::vector<GeneratingRow*>& rows() const { return rows_; }

 private:
  void Begin();
  void Finish();

  const model::Model& model_;
  const std::vector<GeneratingRow*> rows_;
  DecodeHooks hooks_;
  model::PackedRows lines_;
  model::Angles angles_;  // of lines_
  at::Tensor x_;          // the residual stream, [rows, d_model]
  int64_t layer_ = 0;
};

}  // namespace fluoroscope::generate
