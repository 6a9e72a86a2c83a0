#include "sweep/cell_recorder.h"

#include <utility>

namespace fluoroscope::sweep {

bool CellRecorder::Push(api::SweepPart part) {
  if (auto* summary = std::get_if<api::SweepSummary>(&part)) {
    end = std::move(*summary);
    return true;
  }
  if (const auto* reference = std::get_if<api::SweepReference>(&part)) base[reference->pair] = reference->base;
  if (const auto* done = std::get_if<api::SweepCells>(&part)) {
    const size_t metrics = done->cells.empty() ? 0 : done->values.size() / done->cells.size();
    for (size_t i = 0; i < done->cells.size(); ++i) {
      const auto begin = done->values.begin() + static_cast<ptrdiff_t>(i * metrics);
      values[done->pair][done->cells[i]].assign(begin, begin + static_cast<ptrdiff_t>(metrics));
    }
  }
  if (as_ == As::kCells) return out_.Push(std::move(part));
  if (auto* done = std::get_if<api::SweepCells>(&part)) out_.Push(api::ExactCells{std::move(*done)});
  return true;
}

std::map<uint32_t, std::vector<double>> CellRecorder::MeanChanges() const {
  std::map<uint32_t, std::vector<double>> changes;
  for (const auto& [pair, cells] : values) {
    const std::vector<double>& of_base = base.at(pair);
    for (const auto& [cell, of_cell] : cells) {
      std::vector<double>& sum = changes[cell];
      sum.resize(of_cell.size());
      for (size_t m = 0; m < of_cell.size(); ++m) sum[m] += (of_cell[m] - of_base[m]) / static_cast<double>(values.size());
    }
  }
  return changes;
}

}  // namespace fluoroscope::sweep
