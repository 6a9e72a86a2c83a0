#include "rpc/codec_tensor.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "fluoroscope/v1/inference.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

v1::Tensor Tensor(v1::DType dtype, const std::vector<int64_t>& shape, const std::string& data) {
  v1::Tensor tensor;
  tensor.set_dtype(dtype);
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
  tensor.set_data(data);
  return tensor;
}

v1::Tensor Floats(const std::vector<int64_t>& shape, const std::vector<float>& values) {
  return Tensor(v1::DTYPE_F32, shape, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
}

const FieldPath kPath{nullptr, "t"};

TEST(CodecTensorTest, TheBytesAndShapeArrive) {
  const auto chunk = DecodeTensor(Floats({2, 3}, {1, 2, 3, 4, 5, 6}), kPath);
  ASSERT_TRUE(chunk.ok()) << chunk.status();
  EXPECT_EQ(chunk->dtype, api::DType::kF32);
  EXPECT_THAT(chunk->shape, ElementsAre(2, 3));
  float last;
  ASSERT_EQ(chunk->bytes.size(), 24u);
  std::memcpy(&last, chunk->bytes.data() + 20, 4);
  EXPECT_EQ(last, 6);
  EXPECT_EQ(DecodeTensor(Tensor(v1::DTYPE_I64, {}, "12345678"), kPath)->shape.size(), 0u);  // a scalar
  EXPECT_EQ(DecodeTensor(Tensor(v1::DTYPE_BOOL, {0, 5}, ""), kPath)->bytes.size(), 0u);
}

TEST(CodecTensorTest, SizesThatLieAreRefusedBeforeAnythingIsAllocated) {
  const int64_t huge = std::numeric_limits<int64_t>::max();
  for (const auto& [tensor, why] : std::vector<std::pair<v1::Tensor, const char*>>{
           {Tensor(v1::DTYPE_UNSPECIFIED, {1}, "1234"), "t.dtype is missing or unknown (0)"},
           {Tensor(static_cast<v1::DType>(42), {1}, "1234"), "t.dtype is missing or unknown (42)"},
           {Tensor(v1::DTYPE_F32, {2}, "1234"), "t.data has 4 bytes, but shape [2] of this dtype needs 8"},
           {Tensor(v1::DTYPE_F32, {-1}, ""), "t.shape is [-1]; its axes must not be negative"},
           {Tensor(v1::DTYPE_F32, {huge, huge}, ""), "their product must fit 64 bits"},
           {Tensor(v1::DTYPE_F32, {huge}, ""), "their product must fit 64 bits"},
           {Tensor(v1::DTYPE_BOOL, {huge}, "1"), "t.data has 1 bytes"},
           {Tensor(v1::DTYPE_F32, std::vector<int64_t>(17, 1), "1234"), "t.shape has 17 axes; at most 16"},
       }) {
    const auto chunk = DecodeTensor(tensor, kPath);
    EXPECT_EQ(chunk.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(chunk.status().message()), HasSubstr(why));
  }
}

TEST(CodecTensorTest, DirectionsAreFiniteMatrices) {
  EXPECT_TRUE(DecodeDirections(Floats({1, 2}, {1, 2}), kPath).ok());
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  for (const auto& [tensor, why] : std::vector<std::pair<v1::Tensor, const char*>>{
           {Floats({2, 2}, {1, 2, nan, 4}), "t.data holds NaN at row 1, column 0; directions must be finite"},
           {Floats({1, 2}, {1, -infinity}), "t.data holds an infinity at row 0, column 1"},
           {Floats({2}, {1, 2}), "t.shape has 1 axes"},
           {Floats({0, 2}, {}), "there are no directions"},
           {Tensor(v1::DTYPE_F64, {1, 1}, "12345678"), "t.dtype must be DTYPE_F32"},
       }) {
    EXPECT_THAT(std::string(DecodeDirections(tensor, kPath).status().message()), HasSubstr(why));
  }
}

TEST(CodecTensorTest, ChunkFramingIsWhatProtobufWouldWrite) {
  for (const uint32_t id : {0u, 1u, 300u, 4294967295u}) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{127}, uint64_t{1} << 40}) {
      for (const size_t size : {size_t{1}, size_t{127}, size_t{128}, size_t{70000}}) {
        const std::string data(size, 'd');
        v1::ForwardReply reply;
        ASSERT_TRUE(reply.ParseFromString(EncodeChunkPrefix(id, offset, size) + data));
        ASSERT_EQ(reply.part_case(), v1::ForwardReply::kChunk);
        EXPECT_EQ(reply.chunk().tensor_id(), id);
        EXPECT_EQ(reply.chunk().offset(), offset);
        EXPECT_EQ(reply.chunk().data(), data);
        EXPECT_TRUE(reply.GetReflection()->GetUnknownFields(reply).empty());
        if (id != 0 && offset != 0) {
          EXPECT_EQ(EncodeChunkPrefix(id, offset, size) + data, reply.SerializeAsString());
        }
      }
    }
  }
}

TEST(CodecTensorTest, PackFramingIsWhatProtobufWouldWrite) {
  for (const int count : {1, 2, 200}) {
    for (const size_t size : {size_t{0}, size_t{1}, size_t{128}, size_t{70000}}) {
      v1::ForwardReply reply;
      for (int i = 0; i < count; ++i) reply.mutable_pack()->add_headers()->set_name("t" + std::to_string(i));
      const std::string prefix = EncodePackPrefix(reply.pack(), size), data(size, 'd');
      reply.mutable_pack()->set_data(data);
      v1::ForwardReply read;
      ASSERT_TRUE(read.ParseFromString(prefix + data));
      EXPECT_EQ(read.SerializeAsString(), reply.SerializeAsString());
      if (size != 0) {
        EXPECT_EQ(prefix + data, reply.SerializeAsString());
      }
    }
  }
}

TEST(CodecTensorTest, NoHeaderIsLargerThanItsBound) {
  api::NamedTensor tensor;
  tensor.name = std::string(300, 'n');
  tensor.part = std::string(300, 'p');
  tensor.gradient_of = std::string(300, 'g');
  tensor.row = tensor.capture = std::numeric_limits<uint32_t>::max();
  tensor.layer = std::numeric_limits<uint32_t>::max();
  tensor.data.dtype = api::DType::kBool;
  for (const size_t size : {size_t{0}, size_t{1}, size_t{5000}}) {
    tensor.positions.assign(size, -1);
    tensor.token_ids.assign(size, -1);
    tensor.heads.assign(size, -1);
    tensor.data.shape.assign(size, -1);
    v1::TensorPack pack;
    EncodeTensorHeader(tensor, std::numeric_limits<uint32_t>::max(), pack.add_headers());
    EXPECT_LE(pack.ByteSizeLong(), HeaderSizeBound(tensor));
  }
}

TEST(CodecTensorTest, HeadersSayEverything) {
  api::NamedTensor tensor;
  tensor.name = "blocks.3.attn.hook_z";
  tensor.row = 2;
  tensor.layer = 3;
  tensor.positions = {4, 5};
  tensor.token_ids = {70, 80};
  tensor.heads = {1};
  tensor.capture = 6;
  tensor.part = "values";
  tensor.gradient_of = "diff";
  const std::vector<std::byte> bytes(24);
  tensor.data = {.dtype = api::DType::kBF16, .shape = {2, 1, 6}, .bytes = bytes, .owner = nullptr};
  v1::TensorHeader header;
  EncodeTensorHeader(tensor, 9, &header);
  EXPECT_EQ(header.id(), 9u);
  EXPECT_EQ(header.dtype(), v1::DTYPE_BF16);
  EXPECT_THAT(header.shape(), ElementsAre(2, 1, 6));
  EXPECT_EQ(header.byte_size(), 24u);
  EXPECT_EQ(header.name(), "blocks.3.attn.hook_z");
  EXPECT_EQ(header.row(), 2u);
  EXPECT_EQ(header.layer(), 3u);
  EXPECT_THAT(header.positions(), ElementsAre(4, 5));
  EXPECT_THAT(header.token_ids(), ElementsAre(70, 80));
  EXPECT_THAT(header.heads(), ElementsAre(1));
  EXPECT_EQ(header.capture(), 6u);
  EXPECT_EQ(header.part(), "values");
  EXPECT_EQ(header.gradient_of(), "diff");
  tensor.layer.reset();
  v1::TensorHeader plain;
  EncodeTensorHeader(tensor, 0, &plain);
  EXPECT_FALSE(plain.has_layer());
}

}  // namespace
}  // namespace fluoroscope::rpc
