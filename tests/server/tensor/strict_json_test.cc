#include "tensor/strict_json.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::tensor {
namespace {

using testing::HasSubstr;

std::string ErrorOf(std::string_view text, int depth = 4) {
  const auto result = ParseStrictJson(text, depth);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(result.status().message());
}

TEST(StrictJsonTest, ParsesAnObject) {
  const auto result = ParseStrictJson(R"({"a": [1, -2, 3.5], "b": {"a": "x"}, "c": null})", 4);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["a"][1].get<int>(), -2);
  EXPECT_EQ((*result)["b"]["a"].get<std::string>(), "x");
  EXPECT_TRUE((*result)["c"].is_null());
}

TEST(StrictJsonTest, RefusesADuplicateKeyAtAnyLevel) {
  EXPECT_THAT(ErrorOf(R"({"a": 1, "a": 1})"), HasSubstr("the key \"a\" is given twice"));
  EXPECT_THAT(ErrorOf(R"({"x": [{"deep": 1, "deep": 2}]})"), HasSubstr("\"deep\" is given twice"));
  EXPECT_TRUE(ParseStrictJson(R"([1])", 4).status().message() == "not a JSON object");
  EXPECT_TRUE(ParseStrictJson(R"({"x": {"a": 1}, "y": {"a": 1}})", 4).ok()) << "the same key in two objects is fine";
}

TEST(StrictJsonTest, RefusesDepth) {
  EXPECT_TRUE(ParseStrictJson(R"({"a": [[1]]})", 3).ok());
  EXPECT_THAT(ErrorOf(R"({"a": [[[1]]]})", 3), HasSubstr("nested deeper than 3 levels"));
  EXPECT_THAT(ErrorOf(std::string(1'000'000, '['), 3), HasSubstr("nested deeper"));
}

TEST(StrictJsonTest, RefusesBrokenText) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(R"({"a": 1} trailing)"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("{\"a\xff\": 1}"), HasSubstr("UTF-8"));
  EXPECT_THAT(ErrorOf(R"({"a": 1e999})"), HasSubstr("not valid JSON"));
}

}  // namespace
}  // namespace fluoroscope::tensor
