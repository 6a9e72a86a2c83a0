#include "tensor/checkpoint.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "safetensors_bytes.h"

namespace fluoroscope::tensor {
namespace {

using testing::ElementsAre;
using testing::Pair;

// w: F32 [2, 3] = 0..5, h: BF16 [2] = 1.5, -2, i: I64 [] = 7.
std::string SmallFile() {
  const std::string data =
      RawBytes<float>({0, 1, 2, 3, 4, 5}) + RawBytes<uint16_t>({0x3FC0, 0xC000}) + std::string(4, '\0') + RawBytes<int64_t>({7});
  return SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("h":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]},"pad":{"dtype":"U8","shape":[4],"data_offsets":[28,32]},)"
      R"("i":{"dtype":"I64","shape":[],"data_offsets":[32,40]}}  )",
      data);
}

std::string ShardOf(const std::string& name, const std::vector<float>& values) {
  const std::string bytes = RawBytes(values);
  return SafetensorsBytes("{\"" + name + R"(":{"dtype":"F32","shape":[)" + std::to_string(values.size()) + R"(],"data_offsets":[0,)" +
                              std::to_string(bytes.size()) + "]}}",
                          bytes);
}

TEST(CheckpointTest, ReadsASingleFile) {
  const TempDir dir;
  dir.Write("model.safetensors", SmallFile());
  dir.Write("pytorch_model.bin", "ignored beside safetensors");
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(checkpoint->names(), ElementsAre("h", "i", "pad", "w"));
  EXPECT_TRUE(checkpoint->Has("w"));
  EXPECT_FALSE(checkpoint->Has("W"));
  EXPECT_THAT(checkpoint->metadata(), ElementsAre(Pair("format", "pt")));
  EXPECT_EQ(checkpoint->tensor_bytes(), 40u);
  EXPECT_THAT(*checkpoint->ShapeOf("w"), ElementsAre(2, 3));

  const auto w = checkpoint->Load("w", {2, 3}, at::kFloat);
  ASSERT_TRUE(w.ok()) << w.status();
  EXPECT_TRUE(at::equal(*w, at::arange(6, at::kFloat).view({2, 3})));
  const auto h = checkpoint->Load("h", {2}, at::kFloat);
  ASSERT_TRUE(h.ok()) << h.status();
  EXPECT_TRUE(at::equal(*h, at::tensor({1.5f, -2.0f})));
  EXPECT_EQ(checkpoint->Load("w", {2, 3}, at::kBFloat16)->scalar_type(), at::kBFloat16);
  checkpoint->DropPages();
  EXPECT_EQ(checkpoint->View("i")->item<int64_t>(), 7);
}

TEST(CheckpointTest, AViewIsZeroCopyAndOutlivesTheCheckpoint) {
  const TempDir dir;
  dir.Write("model.safetensors", SmallFile());
  at::Tensor view;
  {
    const auto checkpoint = Checkpoint::Open(dir.path());
    ASSERT_TRUE(checkpoint.ok());
    view = *checkpoint->View("w");
    EXPECT_EQ(view.const_data_ptr(), checkpoint->View("w")->const_data_ptr());
  }
  EXPECT_TRUE(at::equal(view, at::arange(6, at::kFloat).view({2, 3})));
}

TEST(CheckpointTest, ATensorAtAnOddAddressIsCopied) {
  const TempDir dir;
  std::string json = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  while (json.size() % 4 != 1) json += ' ';
  dir.Write("model.safetensors", SafetensorsBytes(json, RawBytes<float>({3, 4})));
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(at::equal(*checkpoint->View("w"), at::tensor({3.0f, 4.0f})));
  EXPECT_TRUE(at::equal(*checkpoint->Load("w", {2}, at::kFloat), at::tensor({3.0f, 4.0f})));
}

TEST(CheckpointTest, LoadsIntoAPartOfAFusedMatrix) {
  const TempDir dir;
  dir.Write("model.safetensors", SmallFile());
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok());
  at::Tensor fused = at::full({4, 3}, -1.0, at::kDouble);
  ASSERT_TRUE(checkpoint->LoadInto("w", fused.narrow(0, 1, 2)).ok());
  EXPECT_TRUE(at::equal(fused.narrow(0, 1, 2), at::arange(6, at::kDouble).view({2, 3})));
  EXPECT_TRUE(fused[0].eq(-1).all().item<bool>());
  EXPECT_TRUE(fused[3].eq(-1).all().item<bool>());
  EXPECT_EQ(checkpoint->LoadInto("w", at::empty({3, 2}).t()).code(), absl::StatusCode::kInternal);
}

TEST(CheckpointTest, ConvertsLargeTensorsInPieces) {
  const TempDir dir;
  std::vector<float> values(100'003);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.25f;
  dir.Write("model.safetensors", ShardOf("w", values));
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok());
  const auto loaded = checkpoint->Load("w", {100'003}, at::kDouble);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(at::equal(*loaded, at::arange(100'003, at::kDouble) * 0.25));
}

TEST(CheckpointTest, ReadsShardsThroughTheIndex) {
  const TempDir dir;
  dir.Write("model-2.safetensors", ShardOf("b", {3}));
  dir.Write("model-1.safetensors", ShardOf("a", {1, 2}));
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"b":"model-2.safetensors","a":"model-1.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(checkpoint->names(), ElementsAre("a", "b"));
  EXPECT_TRUE(at::equal(*checkpoint->Load("b", {1}, at::kFloat), at::tensor({3.0f})));
  EXPECT_EQ(checkpoint->tensor_bytes(), 12u);
}

TEST(CheckpointTest, ATensorInTwoShardsIsRefused) {
  const TempDir dir;
  dir.Write("one.safetensors", ShardOf("a", {1, 2}));
  dir.Write("two.safetensors", SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                                R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                                RawBytes<float>({3, 4})));
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(dir.path());
  EXPECT_EQ(checkpoint.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(checkpoint.status().message()),
              testing::HasSubstr("tensor \"a\" is in more than one shard; two.safetensors is one"));
}

TEST(CheckpointTest, NamesTellOfTensorsThatTheIndexLeavesOut) {
  const TempDir dir;
  dir.Write("model-1.safetensors", SmallFile());
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"w":"model-1.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(checkpoint->names(), ElementsAre("h", "i", "pad", "w"));
  EXPECT_TRUE(checkpoint->Has("w"));
  EXPECT_FALSE(checkpoint->Has("h"));
  EXPECT_EQ(checkpoint->tensor_bytes(), 24u);
}

TEST(CheckpointTest, TheHashIsThatOfTheFilesInTheOrderOfTheirNames) {
  const TempDir dir;
  const std::string first = ShardOf("a", {1, 2}), second = ShardOf("b", {3});
  dir.Write("z.safetensors", second);
  dir.Write("m.safetensors", first);
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"b":"z.safetensors","a":"m.safetensors"}})");
  const auto sharded = Checkpoint::Open(dir.path());
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  const std::string command = "sha256sum " + dir.Write("joined", first + second) + " > " + dir.path() + "/sum";
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::string sum;
  std::ifstream(dir.path() + "/sum") >> sum;
  EXPECT_EQ(sum.size(), 64u);
  EXPECT_EQ(*sharded->sha256(), sum);
  EXPECT_EQ(*sharded->sha256(), sum);
}

}  // namespace
}  // namespace fluoroscope::tensor
