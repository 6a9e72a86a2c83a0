// All gradients that a run's captures ask for, row after row, when everything else has run.
#pragma once

#include <cstdint>
#include <memory>

#include "run/lane.h"
#include "run/row_gradients.h"

namespace fluoroscope::run {

// Belongs to one run; used on the executor's thread. What LibTorch throws passes through.
class CapturedGradients {
 public:
  // The lane outlives it.
  explicit CapturedGradients(const Lane& lane) : lane_(lane) { FindRow(); }

  bool done() const { return next_row_ == lane_.plan.rows.size(); }

  // Does the next small piece.
  void Step();

  uint64_t tokens() const { return tokens_; }  // that have entered the model

 private:
  void FindRow();  // from next_row_ on the first with gradients

  const Lane& lane_;
  size_t next_row_ = 0;
  std::unique_ptr<RowGradients> row_;
  uint64_t tokens_ = 0;
};

}  // namespace fluoroscope::run
