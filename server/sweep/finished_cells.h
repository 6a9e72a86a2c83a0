// Which cells of a grid need no run, because an earlier run of the same work has finished them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fluoroscope::sweep {

// A plain value. Empty (the default): no cell is finished.
class FinishedCells {
 public:
  FinishedCells() = default;
  FinishedCells(size_t pairs, size_t cells_per_pair) : per_pair_(cells_per_pair), finished_(pairs * cells_per_pair) {}

  // Only these cells of every pair are left to do.
  static FinishedCells AllBut(const std::vector<uint32_t>& chosen, size_t pairs, size_t cells_per_pair) {
    FinishedCells all(pairs, cells_per_pair);
    all.finished_.flip();
    all.count_ = all.finished_.size();
    for (size_t pair = 0; pair < pairs; ++pair)
      for (const uint32_t cell : chosen) {
        all.finished_[pair * cells_per_pair + cell] = false;
        --all.count_;
      }
    return all;
  }

  // False when there is no such cell, or it was finished already.
  bool Add(uint32_t pair, uint32_t cell) {
    const size_t place = pair * per_pair_ + cell;
    if (cell >= per_pair_ || place >= finished_.size() || finished_[place]) return false;
    finished_[place] = true;
    ++count_;
    return true;
  }
  bool Has(uint32_t pair, uint32_t cell) const { return count_ > 0 && finished_[pair * per_pair_ + cell]; }
  size_t count() const { return count_; }

 private:
  size_t per_pair_ = 0, count_ = 0;
  std::vector<bool> finished_;
};

}  // namespace fluoroscope::sweep
