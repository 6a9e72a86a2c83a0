// Model directories that are wrong: each is refused with a status that says what is wrong and where.
#include <ostream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "safetensors_bytes.h"
#include "tensor/checkpoint.h"

namespace fluoroscope::tensor {
namespace {

using testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

// "w" as F32 [2] with these offsets.
std::string Entry(const std::string& offsets, const std::string& dtype = "F32", const std::string& shape = "[2]") {
  return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}
std::string GoodFile() { return SafetensorsBytes(Entry("[0,8]"), RawBytes<float>({1, 2})); }
std::string Index(const std::string& tensor, const std::string& file) { return R"({"weight_map":{")" + tensor + R"(":")" + file + "\"}}"; }

struct Case {
  const char* what;
  std::vector<std::pair<std::string, std::string>> files;
  absl::StatusCode code;
  std::string message;
};
void PrintTo(const Case& bad, std::ostream* out) { *out << bad.what; }

class BadCheckpointTest : public testing::TestWithParam<Case> {};

TEST_P(BadCheckpointTest, DoesNotOpen) {
  const TempDir dir;
  for (const auto& [name, bytes] : GetParam().files) dir.Write(name, bytes);
  const absl::Status status = Checkpoint::Open(dir.path()).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
const std::string kPickled = "which are refused because reading them runs code from the file. Convert them";

INSTANTIATE_TEST_SUITE_P(
    All, BadCheckpointTest,
    testing::Values(
        Case{"NoWeights",
             {{"config.json", "{}"}},
             absl::StatusCode::kNotFound,
             "has neither model.safetensors nor model.safetensors.index.json"},
        Case{"PickledBin",
             {{"pytorch_model.bin", "PK"}},
             absl::StatusCode::kFailedPrecondition,
             "only pickled weights (pytorch_model.bin), " + kPickled},
        Case{"PickledPt", {{"model.pt", "PK"}}, absl::StatusCode::kFailedPrecondition, "(model.pt), " + kPickled},
        Case{"PickledPth", {{"consolidated.00.pth", "PK"}}, absl::StatusCode::kFailedPrecondition, "(consolidated.00.pth), " + kPickled},
        Case{"PickledCkpt", {{"a.ckpt", "PK"}, {"b.ckpt", "PK"}}, absl::StatusCode::kFailedPrecondition, "(a.ckpt, …), " + kPickled},
        Case{"EmptyFile",
             {{kSingle, ""}},
             kInvalid,
             "model.safetensors: a safetensors file begins with an 8-byte length, this one has 0 bytes"},
        Case{"CutOffInTheHeader", {{kSingle, GoodFile().substr(0, 20)}}, kInvalid, "but the file has only 20; was it cut off?"},
        Case{"CutOffInTheData",
             {{kSingle, GoodFile().substr(0, GoodFile().size() - 1)}},
             kInvalid,
             "model.safetensors: tensor \"w\": data_offsets [0, 8] reach outside the file, which has 7 bytes of data; was it cut off?"},
        Case{"BytesAtTheEnd", {{kSingle, GoodFile() + "x"}}, kInvalid, "model.safetensors: there are 1 bytes behind the last tensor \"w\""},
        Case{"OffsetsLieAboutTheSize",
             {{kSingle, SafetensorsBytes(Entry("[0,4]"), "1234")}},
             kInvalid,
             "tensor \"w\": data_offsets [0, 4] hold 4 bytes, but F32 of shape [2] needs 8"},
        Case{"OffsetsBackwards",
             {{kSingle, SafetensorsBytes(Entry("[8,0]"), "12345678")}},
             kInvalid,
             "tensor \"w\": data_offsets [8, 0] end before"},
        Case{"UnknownDType",
             {{kSingle, SafetensorsBytes(Entry("[0,8]", "F99"), "12345678")}},
             kInvalid,
             "tensor \"w\": unknown dtype \"F99\""},
        Case{"IndexIsNotJson", {{kIndex, "weight_map"}}, kInvalid, "model.safetensors.index.json: not valid JSON"},
        Case{"IndexEscapes",
             {{kIndex, Index("w", "../../secret.safetensors")}},
             kInvalid,
             "model.safetensors.index.json: weight_map: the file of tensor \"w\" is \"../../secret.safetensors\"; only a plain name"},
        Case{"ShardMissing",
             {{kIndex, Index("w", "m-1.safetensors")}},
             absl::StatusCode::kNotFound,
             "names the shard m-1.safetensors, which is not in"},
        Case{"TensorNotInItsShard",
             {{kIndex, Index("v", "m.safetensors")}, {"m.safetensors", GoodFile()}},
             kInvalid,
             "tensor \"v\" should be in m.safetensors, which does not have it"},
        Case{"ShardCutOff",
             {{kIndex, Index("w", "m.safetensors")}, {"m.safetensors", GoodFile().substr(0, GoodFile().size() - 3)}},
             kInvalid,
             "m.safetensors: tensor \"w\": data_offsets [0, 8] reach outside the file"}),
    [](const auto& info) { return info.param.what; });

TEST(BadCheckpointTest, NoDirectory) {
  const absl::Status status = Checkpoint::Open("/nonexistent/model").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot read the model directory /nonexistent/model"));
}

TEST(BadCheckpointTest, AWeightsFileThatIsADirectory) {
  const TempDir dir;
  std::filesystem::create_directory(dir.path() + "/" + kSingle);
  EXPECT_THAT(std::string(Checkpoint::Open(dir.path()).status().message()), HasSubstr("is not a regular file"));
}

TEST(BadCheckpointTest, WhatLoadRefuses) {
  const TempDir dir;
  dir.Write(kSingle, SafetensorsBytes(
                         R"({"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"d":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},)"
                         R"("i":{"dtype":"I32","shape":[2],"data_offsets":[16,24]}})",
                         std::string(24, '\0')));
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();

  const absl::Status missing = checkpoint->Load("v", {2}, at::kFloat).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("the checkpoint has no tensor \"v\""));

  const absl::Status shape = checkpoint->Load("w", {1, 2}, at::kFloat).status();
  EXPECT_EQ(shape.code(), kInvalid);
  EXPECT_EQ(shape.message(), "tensor \"w\" in model.safetensors has shape [2, 1], expected [1, 2]");

  EXPECT_EQ(checkpoint->Load("d", {1}, at::kFloat).status().message(),
            "tensor \"d\" in model.safetensors is F64; weights must be F32, F16 or BF16");
  EXPECT_EQ(checkpoint->Load("i", {2}, at::kFloat).status().message(),
            "tensor \"i\" in model.safetensors is I32; weights must be F32, F16 or BF16");
  EXPECT_EQ(checkpoint->View("d")->scalar_type(), at::kDouble) << "but it can be looked at";
  EXPECT_EQ(checkpoint->View("i")->scalar_type(), at::kInt);
}

}  // namespace
}  // namespace fluoroscope::tensor
