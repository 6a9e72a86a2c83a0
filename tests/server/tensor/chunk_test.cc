#include "tensor/chunk.h"

#include <cstring>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::tensor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ChunkTest, AContiguousTensorIsSharedNotCopied) {
  const at::Tensor tensor = at::arange(6, at::kFloat).view({2, 3});
  const auto chunk = ToChunk(tensor);
  ASSERT_TRUE(chunk.ok()) << chunk.status();
  EXPECT_EQ(chunk->bytes.data(), static_cast<const void*>(tensor.const_data_ptr()));
  EXPECT_EQ(chunk->bytes.size(), 24u);
  EXPECT_EQ(chunk->dtype, api::DType::kF32);
  EXPECT_THAT(chunk->shape, ElementsAre(2, 3));
}

TEST(ChunkTest, TheChunkKeepsTheBytesAlive) {
  api::Chunk chunk;
  {
    at::Tensor tensor = at::full({1000}, 3.0f);
    chunk = *ToChunk(tensor);
  }
  float last = 0;
  std::memcpy(&last, chunk.bytes.data() + 999 * sizeof(float), sizeof(last));
  EXPECT_EQ(last, 3.0f);
}

TEST(ChunkTest, AStridedTensorIsMadeContiguous) {
  const at::Tensor tensor = at::arange(6, at::kFloat).view({2, 3}).t();
  const auto chunk = ToChunk(tensor);
  ASSERT_TRUE(chunk.ok());
  EXPECT_THAT(chunk->shape, ElementsAre(3, 2));
  float values[6];
  std::memcpy(values, chunk->bytes.data(), sizeof(values));
  EXPECT_THAT(values, ElementsAre(0, 3, 1, 4, 2, 5));
}

TEST(ChunkTest, RoundTripsEveryDTypeAndOddShapes) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kInt, at::kLong, at::kBool}) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{}, {0}, {3, 0, 2}, {5}, {2, 3, 4}}) {
      const at::Tensor tensor = at::randint(0, 2, shape, at::dtype(at::kLong)).to(type);
      const auto chunk = ToChunk(tensor);
      ASSERT_TRUE(chunk.ok()) << chunk.status();
      const auto back = FromChunk(*chunk);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(back->scalar_type(), type);
      EXPECT_EQ(back->sizes(), tensor.sizes());
      EXPECT_TRUE(at::equal(*back, tensor));
      EXPECT_TRUE(tensor.numel() == 0 || back->const_data_ptr() != tensor.const_data_ptr()) << "a fresh tensor";
    }
  }
}

TEST(ChunkTest, RefusesWhatCannotBeSent) {
  EXPECT_EQ(ToChunk(at::zeros({1}, at::kComplexFloat)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ToChunk(at::Tensor()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ToChunk(at::zeros({2, 2}).to_sparse()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ToChunk(at::empty({2}, at::device(at::kMeta))).status().code(), absl::StatusCode::kInternal) << "a meta tensor has no values";
}

TEST(ChunkTest, RefusesChunksThatLie) {
  const std::string bytes(8, 'x');
  api::Chunk chunk{api::DType::kF32, {3}, std::as_bytes(std::span(bytes)), nullptr};
  EXPECT_EQ(FromChunk(chunk).status().message(), "a tensor of f32 with shape [3] has 12 bytes, but 8 were given");
  chunk.shape = {-2};
  EXPECT_THAT(std::string(FromChunk(chunk).status().message()), HasSubstr("cannot have the shape [-2]"));
  chunk.shape = {std::numeric_limits<int64_t>::max(), 2};
  EXPECT_EQ(FromChunk(chunk).status().code(), absl::StatusCode::kInvalidArgument);
  chunk.shape = {0, std::numeric_limits<int64_t>::max(), 4};
  EXPECT_EQ(FromChunk(chunk).status().code(), absl::StatusCode::kInvalidArgument);
  chunk.shape = {2};
  EXPECT_TRUE(FromChunk(chunk).ok());
}

}  // namespace
}  // namespace fluoroscope::tensor
