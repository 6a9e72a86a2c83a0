// Which places a cell changes, and which cells are the same change.
#include "sweep/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace fluoroscope::sweep {
namespace {

using api::SweepAxis;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<int64_t> UpTo(int64_t count) {
  std::vector<int64_t> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// All pairs of heads of a model with 3 layers of 2 heads.
Grid HeadPairs() {
  Grid grid;
  grid.axes = {SweepAxis::kLayer, SweepAxis::kHead, SweepAxis::kSecondLayer, SweepAxis::kSecondHead};
  grid.sites = {model::Site::kZ};
  grid.layers = grid.second_layers = UpTo(3);
  grid.heads = grid.second_heads = UpTo(2);
  grid.model_layers = 3;
  return grid;
}

size_t CellOf(size_t layer, size_t head, size_t second_layer, size_t second_head) {
  return ((layer * 2 + head) * 3 + second_layer) * 2 + second_head;
}

TEST(Grid, TwoHeadsInTwoLayers) {
  const CellChange change = HeadPairs().At(CellOf(2, 1, 0, 0));
  EXPECT_THAT(change.layers, ElementsAre(0, 2));  // ascending, whichever comes first
  EXPECT_THAT(change.HeadsIn(0), ElementsAre(0));
  EXPECT_THAT(change.HeadsIn(1), ElementsAre(1));
}

TEST(Grid, TwoHeadsOfALayer) {
  const CellChange change = HeadPairs().At(CellOf(1, 1, 1, 0));
  EXPECT_THAT(change.layers, ElementsAre(1));
  EXPECT_THAT(change.HeadsIn(0), ElementsAre(0, 1));
}

TEST(Grid, TheSameHeadTwiceIsThatHead) {
  const CellChange change = HeadPairs().At(CellOf(1, 1, 1, 1));
  EXPECT_THAT(change.layers, ElementsAre(1));
  EXPECT_THAT(change.HeadsIn(0), ElementsAre(1));
}

TEST(Grid, WindowsOverlap) {
  Grid grid = HeadPairs();
  grid.window = 2;
  const CellChange change = grid.At(CellOf(0, 0, 1, 1));  // head 0 of layers 0 and 1, head 1 of layers 1 and 2
  EXPECT_THAT(change.layers, ElementsAre(0, 1, 2));
  EXPECT_THAT(change.HeadsIn(0), ElementsAre(0));
  EXPECT_THAT(change.HeadsIn(1), ElementsAre(0, 1));
  EXPECT_THAT(change.HeadsIn(2), ElementsAre(1));
}

TEST(Grid, LayersWithAllHeads) {
  Grid grid = HeadPairs();
  grid.axes = {SweepAxis::kLayer, SweepAxis::kSecondLayer};
  grid.heads = grid.second_heads = {};
  const CellChange change = grid.At(1);
  EXPECT_THAT(change.layers, ElementsAre(0, 1));
  EXPECT_THAT(change.HeadsIn(0), IsEmpty());
  EXPECT_EQ(grid.Twin(1), 3u);
  EXPECT_EQ(grid.Twin(4), std::nullopt);
}

TEST(Grid, TwinsAreEachOthersAndTheSameChange) {
  const Grid grid = HeadPairs();
  size_t alone = 0;
  for (size_t cell = 0; cell < grid.cells(); ++cell) {
    const std::optional<size_t> twin = grid.Twin(cell);
    if (!twin) {
      ++alone;
      continue;
    }
    EXPECT_EQ(grid.Twin(*twin), cell);
    const CellChange a = grid.At(cell), b = grid.At(*twin);
    EXPECT_EQ(a.layers, b.layers);
    EXPECT_EQ(a.heads_by_layer, b.heads_by_layer);
  }
  EXPECT_EQ(alone, 6u);  // the diagonal
  EXPECT_EQ(grid.Twin(CellOf(2, 1, 0, 0)), CellOf(0, 0, 2, 1));
}

TEST(Grid, NarrowedSecondPlacesHaveFewTwins) {
  Grid grid = HeadPairs();
  grid.second_layers = {2};
  grid.second_heads = {0, 1};
  // Cells are (layer * 2 + head) * 2 + second head; only those within layer 2 can be turned round.
  EXPECT_EQ(grid.Twin(0), std::nullopt);
  EXPECT_EQ(grid.Twin((2 * 2 + 0) * 2 + 1), (2 * 2 + 1) * 2 + 0u);
  grid.axes = {SweepAxis::kLayer, SweepAxis::kSecondLayer};  // each with its own heads
  grid.heads = {0};
  EXPECT_EQ(grid.Twin(2), std::nullopt);
}

TEST(Grid, OnePlaceHasNoTwin) {
  Grid grid = HeadPairs();
  grid.axes = {SweepAxis::kLayer, SweepAxis::kHead};
  grid.second_layers = grid.second_heads = {};
  for (size_t cell = 0; cell < grid.cells(); ++cell) EXPECT_EQ(grid.Twin(cell), std::nullopt);
  EXPECT_THAT(grid.At(3).layers, ElementsAre(1));
  EXPECT_THAT(grid.At(3).HeadsIn(0), ElementsAre(1));
}

}  // namespace
}  // namespace fluoroscope::sweep
