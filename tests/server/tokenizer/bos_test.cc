// BOS_DEFAULT, BOS_ALWAYS and BOS_NEVER over every kind of post-processor, and where the BOS token's name comes from.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/tokenizer/tiny.h"

namespace fluoroscope::tokenizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto kDefault = api::Bos::kDefault;
constexpr auto kAlways = api::Bos::kAlways;
constexpr auto kNever = api::Bos::kNever;

void ExpectEncoding(const Tokenizer& tokenizer, std::string_view text, api::Bos bos, bool parse, std::vector<int64_t> ids, bool bos_added) {
  auto encoded = tokenizer.Encode(text, bos, parse);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(encoded->ids, ids) << text;
  EXPECT_EQ(encoded->bos_added, bos_added) << text;
}

using BosTest = TokenizerTest;

TEST_F(BosTest, ATokenizerThatAddsNothing) {
  Write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  auto tokenizer = MustLoad(TinyBpe(kAddsNothing));
  EXPECT_FALSE(tokenizer->adds_bos_by_default());
  ExpectEncoding(*tokenizer, "ab", kDefault, false, {12}, false);
  ExpectEncoding(*tokenizer, "ab", kNever, false, {12}, false);
  ExpectEncoding(*tokenizer, "ab", kAlways, false, {0, 12}, true);
  ExpectEncoding(*tokenizer, "", kAlways, false, {0}, true);
  ExpectEncoding(*tokenizer, "<s>ab", kAlways, true, {0, 12}, false);  // the text brought it
  ExpectEncoding(*tokenizer, "<s>ab", kDefault, true, {0, 12}, false);
  ExpectEncoding(*tokenizer, "<s>ab", kAlways, false, {0, 7, 8, 9, 12}, true);
}

TEST_F(BosTest, ATokenizerThatAddsABos) {
  Write("tokenizer_config.json", R"({"bos_token": {"content": "<s>", "lstrip": false}})");
  auto tokenizer = MustLoad(TinyBpe(AddsBos()));
  EXPECT_TRUE(tokenizer->adds_bos_by_default());
  ExpectEncoding(*tokenizer, "ab", kDefault, false, {0, 12}, true);
  ExpectEncoding(*tokenizer, "ab", kNever, false, {12}, false);
  ExpectEncoding(*tokenizer, "ab", kAlways, false, {0, 12}, true);
  ExpectEncoding(*tokenizer, "<s>ab", kDefault, true, {0, 0, 12}, true);  // exactly what the file does: two
  ExpectEncoding(*tokenizer, "<s>ab", kAlways, true, {0, 12}, false);     // exactly one
  ExpectEncoding(*tokenizer, "<s>ab", kNever, true, {0, 12}, false);      // the text's own, as in what a chat template writes
  ExpectEncoding(*tokenizer, "<s>ab", kNever, false, {7, 8, 9, 12}, false);
  ExpectEncoding(*tokenizer, "", kDefault, false, {0}, true);
}

TEST_F(BosTest, ATokenizerThatAddsBosAndEos) {
  auto tokenizer = MustLoad(TinyBpe(AddsBoth()));  // no file names the BOS: it is what every text begins with
  EXPECT_TRUE(tokenizer->adds_bos_by_default());
  ExpectEncoding(*tokenizer, "ab", kDefault, false, {0, 12, 1}, true);
  ExpectEncoding(*tokenizer, "ab", kAlways, false, {0, 12, 1}, true);
  ExpectEncoding(*tokenizer, "ab", kNever, false, {12}, false);
}

TEST_F(BosTest, AnEosAloneIsNoBos) {
  auto tokenizer = MustLoad(TinyBpe(AddsEos()));
  EXPECT_FALSE(tokenizer->adds_bos_by_default());
  ExpectEncoding(*tokenizer, "ab", kDefault, false, {12, 1}, false);
  ExpectEncoding(*tokenizer, "", kDefault, false, {1}, false);
  auto refused = tokenizer->Encode("ab", kAlways, false);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("has no BOS token"));
}

TEST_F(BosTest, AnotherTokenInFrontIsNoBosWhenTheFileNamesOne) {
  Write("tokenizer_config.json", R"({"bos_token": "</s>"})");
  auto tokenizer = MustLoad(TinyBpe(AddsBos()));  // puts <s>
  EXPECT_FALSE(tokenizer->adds_bos_by_default());
  ExpectEncoding(*tokenizer, "ab", kDefault, false, {0, 12}, false);
  ExpectEncoding(*tokenizer, "ab", kAlways, false, {1, 0, 12}, true);
}

TEST_F(BosTest, TheNameIsLookedForInThreeFiles) {
  Write("config.json", R"({"bos_token_id": 1})");
  EXPECT_THAT(MustLoad(TinyBpe(kAddsNothing))->Encode("ab", kAlways, false)->ids, ElementsAre(1, 12));
  Write("special_tokens_map.json", R"({"bos_token": {"content": "<s>"}})");
  Write("tokenizer_config.json", R"({"bos_token": null})");
  EXPECT_THAT(MustLoad(TinyBpe(kAddsNothing))->Encode("ab", kAlways, false)->ids, ElementsAre(0, 12));
  Write("tokenizer_config.json", R"({"bos_token": "<user>"})");
  EXPECT_THAT(MustLoad(TinyBpe(kAddsNothing))->Encode("ab", kAlways, false)->ids, ElementsAre(2, 12));
}

TEST_F(BosTest, ABadNameIsRefusedWithTheFile) {
  Write("tokenizer.json", TinyBpe(kAddsNothing));
  for (const char* content : {R"({"bos_token": "<bos>"})", R"({"bos_token": 3})", R"({"bos_token": {}})", "[]", "{", "", "\xFF\xFE"}) {
    Write("tokenizer_config.json", content);
    auto loaded = Load();
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument) << content;
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("tokenizer_config.json")) << content;
  }
}

}  // namespace
}  // namespace fluoroscope::tokenizer
