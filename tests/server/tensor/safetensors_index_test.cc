#include "tensor/safetensors_index.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::tensor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

TEST(SafetensorsIndexTest, ReadsTheWeightMap) {
  const auto files = ParseIndex(
      R"({"metadata": {"total_size": 12}, "weight_map": {"b": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors"}})");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(*files, ElementsAre(Pair("a", "model-00001-of-00002.safetensors"), Pair("b", "model-00002-of-00002.safetensors")));
}

TEST(SafetensorsIndexTest, RefusesFilesElsewhere) {
  for (const char* file : {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\\\b.safetensors", "..safetensors",
                           ".hidden.safetensors", "a..safetensors", "x\\u0000.safetensors", "pytorch_model.bin", ""}) {
    const auto files = ParseIndex(std::string(R"({"weight_map": {"layer.w": ")") + file + "\"}}");
    EXPECT_EQ(files.status().code(), absl::StatusCode::kInvalidArgument) << file;
    EXPECT_THAT(std::string(files.status().message()), HasSubstr("the file of tensor \"layer.w\" is")) << file;
  }
}

TEST(SafetensorsIndexTest, RefusesOtherShapesOfJson) {
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"[]", "not a JSON object"},
           {"{}", "weight_map is missing"},
           {R"({"weight_map": []})", "weight_map is missing or not an object"},
           {R"({"weight_map": {}})", "weight_map is empty"},
           {R"({"weight_map": {"a": 3}})", "the file of tensor \"a\" is not a string"},
           {R"({"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}})", "the key \"a\" is given twice"}}) {
    EXPECT_THAT(std::string(ParseIndex(text).status().message()), HasSubstr(message)) << text;
  }
}

}  // namespace
}  // namespace fluoroscope::tensor
