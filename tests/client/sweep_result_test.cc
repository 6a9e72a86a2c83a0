#include "client/sweep_result.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace fluoroscope::client {
namespace {

template <typename T>
std::string Raw(const std::vector<T>& numbers) {
  return std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(T));
}

v1::SweepReply Header(int pairs, int layers, int positions, int metrics) {
  v1::SweepReply reply;
  v1::SweepHeader* header = reply.mutable_header();
  for (int i = 0; i < pairs; ++i) header->add_clean(), header->add_corrupt();
  for (int i = 0; i < metrics; ++i) header->add_metrics("m" + std::to_string(i));
  for (int size : {layers, positions}) {
    v1::SweepAxisInfo* axis = header->add_axes();
    for (int i = 0; i < size; ++i) axis->add_labels(std::to_string(i));
  }
  return reply;
}

v1::SweepReply Reference(uint32_t pair, const std::vector<double>& base, const std::vector<double>& source) {
  v1::SweepReply reply;
  reply.mutable_reference()->set_pair(pair);
  reply.mutable_reference()->set_base(Raw(base));
  reply.mutable_reference()->set_source(Raw(source));
  return reply;
}

v1::SweepReply Cells(uint32_t pair, const std::vector<uint32_t>& cells, const std::vector<double>& values) {
  v1::SweepReply reply;
  reply.mutable_cells()->set_pair(pair);
  reply.mutable_cells()->set_cells(Raw(cells));
  reply.mutable_cells()->set_values(Raw(values));
  return reply;
}

v1::SweepReply Summary() {
  v1::SweepReply reply;
  reply.mutable_summary()->set_tokens(7);
  return reply;
}

// The first failure of these messages, or of the end.
absl::StatusOr<SweepResult> Read(const std::vector<v1::SweepReply>& messages) {
  SweepAssembler assembler;
  for (const v1::SweepReply& message : messages)
    if (absl::Status status = assembler.Take(message); !status.ok()) return status;
  return assembler.Finish();
}

TEST(SweepResultTest, CellsComeInAnyOrder) {
  auto result = Read({Header(2, 2, 2, 2), Cells(1, {3, 0}, {16, 160, 10, 100}), Reference(1, {2, 20}, {4, 40}),
                      Cells(0, {0, 1, 2}, {0, 0, 2, 20, 4, 40}), Reference(0, {0, 0}, {2, 20}), Cells(0, {3}, {6, 60}),
                      Cells(1, {2, 1}, {14, 140, 12, 120}), Summary()});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->cells, 4u);
  EXPECT_EQ(result->MeanValues(0), (std::vector<double>{5, 7, 9, 11}));
  EXPECT_EQ(result->MeanValues(1), (std::vector<double>{50, 70, 90, 110}));
  EXPECT_EQ(result->MeanBase(1), 10);
  EXPECT_EQ(result->MeanSource(1), 30);
  EXPECT_EQ(*result->Normalized(1), (std::vector<double>{2, 3, 4, 5}));  // not clipped
  EXPECT_EQ(result->summary.tokens(), 7u);
}

TEST(SweepResultTest, ProgressCountsCells) {
  SweepAssembler assembler;
  EXPECT_EQ(assembler.total(), 0u);
  ASSERT_TRUE(assembler.Take(Header(2, 2, 3, 1)).ok());
  ASSERT_TRUE(assembler.Take(Cells(1, {0, 5}, {1, 2})).ok());
  ASSERT_TRUE(assembler.Take(v1::SweepReply()).ok());  // a part of a newer server
  EXPECT_EQ(assembler.done(), 2u);
  EXPECT_EQ(assembler.total(), 12u);
}

TEST(SweepResultTest, NothingToNormaliseBy) {
  for (double source : {2.0, 2.0019, std::numeric_limits<double>::quiet_NaN()}) {
    auto result = Read({Header(1, 1, 1, 1), Reference(0, {2}, {source}), Cells(0, {0}, {3}), Summary()});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->Normalized().status().code(), absl::StatusCode::kFailedPrecondition) << source;
  }
}

TEST(SweepResultTest, TrustsNothing) {
  const auto header = Header(1, 1, 2, 1), reference = Reference(0, {0}, {1}), cells = Cells(0, {0, 1}, {1, 2});
  ASSERT_TRUE(Read({header, reference, cells, Summary()}).ok());
  const std::vector<std::vector<v1::SweepReply>> broken = {
      {},
      {header},
      {cells, header, reference, Summary()},
      {header, header, reference, cells, Summary()},
      {header, cells, Summary()},                                   // the unchanged runs are missing
      {header, reference, reference, cells, Summary()},             // they come twice
      {header, reference, cells},                                   // no summary
      {header, reference, Cells(0, {0}, {1}), Summary()},           // a cell is missing
      {header, reference, cells, Cells(0, {1}, {2}), Summary()},    // a cell comes twice
      {header, reference, Cells(0, {0, 0}, {1, 1}), Summary()},     // also in one message
      {header, reference, Cells(0, {0, 2}, {1, 1}), Summary()},     // a cell that does not exist
      {header, reference, Cells(1, {0, 1}, {1, 1}), Summary()},     // a pair that does not exist
      {header, reference, Cells(0, {0, 1}, {1, 1, 1}), Summary()},  // more values than cells
      {header, Reference(0, {0, 1}, {1}), cells, Summary()},        // more values than metrics
      {header, Reference(1, {0}, {1}), cells, Summary()},
      {Header(0, 1, 2, 1), Summary()},
      {Header(1, 1, 2, 0), Summary()},
      {Header(1, 0, 2, 1), Summary()},
      {Header(70000, 70000, 1, 1), Summary()},  // more than there is memory
  };
  for (size_t i = 0; i < broken.size(); ++i) EXPECT_EQ(Read(broken[i]).status().code(), absl::StatusCode::kDataLoss) << i;
}

}  // namespace
}  // namespace fluoroscope::client
