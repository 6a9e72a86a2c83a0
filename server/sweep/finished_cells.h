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
