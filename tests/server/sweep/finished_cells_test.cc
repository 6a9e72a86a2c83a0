#include "sweep/finished_cells.h"

#include <gtest/gtest.h>

namespace fluoroscope::sweep {
namespace {

TEST(FinishedCells, NoneByDefault) {
  const FinishedCells none;
  EXPECT_EQ(none.count(), 0u);
  EXPECT_FALSE(none.Has(0, 0));
  EXPECT_FALSE(none.Has(1000, 1'000'000));  // whatever the grid's size is
}

TEST(FinishedCells, EachOnceAndOnlyWhereItIs) {
  FinishedCells cells(3, 5);
  EXPECT_TRUE(cells.Add(1, 4));
  EXPECT_TRUE(cells.Add(2, 0));
  EXPECT_FALSE(cells.Add(1, 4)) << "a cell is finished once";
  EXPECT_EQ(cells.count(), 2u);
  for (uint32_t pair = 0; pair < 3; ++pair)
    for (uint32_t cell = 0; cell < 5; ++cell) EXPECT_EQ(cells.Has(pair, cell), (pair == 1 && cell == 4) || (pair == 2 && cell == 0));
}

// Cell 5 of pair 0 would lie where cell 0 of pair 1 does.
TEST(FinishedCells, RefusesWhatTheGridDoesNotHave) {
  FinishedCells cells(2, 5);
  EXPECT_FALSE(cells.Add(0, 5));
  EXPECT_FALSE(cells.Add(2, 0));
  EXPECT_FALSE(cells.Add(UINT32_MAX, UINT32_MAX));
  EXPECT_FALSE(FinishedCells().Add(0, 0));
  EXPECT_EQ(cells.count(), 0u);
  EXPECT_FALSE(cells.Has(1, 0));
}

}  // namespace
}  // namespace fluoroscope::sweep
