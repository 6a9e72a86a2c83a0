// Where the scores of one pair of prompts come from, and how an attribution goes through its pairs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "api/attribution.h"
#include "sweep/exact_run.h"

namespace fluoroscope::attribution {

// Belongs to one Work; used on the executor's thread.
class PairScores {
 public:
  virtual ~PairScores() = default;

  // A bounded piece: a block of one of the passes. False when all is done.
  virtual bool Step() = 0;

  // When all is done:
  virtual std::vector<double> Scores() const = 0;  // [cells, metrics]
  virtual const api::SweepReference& reference() const = 0;
  virtual uint64_t tokens() const = 0;  // that entered the model
};

// An attribution, as its run sees it.
struct Scoring {
  // The cells that are also run, chosen by their scores.
  struct Verification {
    sweep::ExactRun::Plan exact;
    api::CellChoice choice;
    bool by_size = false;  // scores have no sign
  };

  size_t pairs = 0, cells = 0;
  std::function<std::unique_ptr<PairScores>(size_t pair)> begin;
  std::optional<Verification> verification;
};

}  // namespace fluoroscope::attribution
