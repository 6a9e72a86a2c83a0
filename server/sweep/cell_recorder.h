// Keeps what a sweep says, for whoever compares it with another run of the same cells.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "api/sweep.h"

namespace fluoroscope::sweep {

// The sink of a sweep inside another work. Used on the executor's thread; never full.
class CellRecorder final : public api::SweepSink {
 public:
  enum class As {
    kCells,  // passes on header, references and cells
    kExact,  // passes on cells only, as exact ones
  };

  // `out` outlives it. Summary and end are kept for the work.
  CellRecorder(api::SweepSink& out, As as) : out_(out), as_(as) {}

  bool Push(api::SweepPart part) override;
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status ended) override { status = std::move(ended); }

  std::map<uint32_t, std::vector<double>> base;                        // by pair: one value per metric
  std::map<uint32_t, std::map<uint32_t, std::vector<double>>> values;  // by pair and cell
  api::SweepSummary end;
  absl::Status status;

  // Changes from the base runs, means over pairs: by cell, one per metric.
  std::map<uint32_t, std::vector<double>> MeanChanges() const;

 private:
  api::SweepSink& out_;
  const As as_;
};

}  // namespace fluoroscope::sweep
