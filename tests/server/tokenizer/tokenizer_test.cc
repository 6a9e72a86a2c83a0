#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "tests/server/tokenizer/tiny.h"

namespace fluoroscope::tokenizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(TokenizerTest, EncodesWithTheMerges) {
  auto tokenizer = MustLoad(TinyBpe(kAddsNothing));
  auto encoded = tokenizer->Encode("ab abc", api::Bos::kDefault, false);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_THAT(encoded->ids, ElementsAre(12, 13, 5));
  EXPECT_FALSE(encoded->bos_added);
  EXPECT_FALSE(tokenizer->adds_bos_by_default());
  EXPECT_EQ(tokenizer->vocabulary_size(), 18);
}

TEST_F(TokenizerTest, AnEmptyTextHasNoTokens) {
  auto tokenizer = MustLoad(TinyBpe(kAddsNothing));
  EXPECT_THAT(tokenizer->Encode("", api::Bos::kDefault, false)->ids, IsEmpty());
  EXPECT_THAT(tokenizer->Encode(std::string_view(), api::Bos::kDefault, true)->ids, IsEmpty());
  EXPECT_EQ(*tokenizer->Decode({}, false), "");
}

TEST_F(TokenizerTest, SpecialTokensInATextAreTextUnlessAskedFor) {
  auto tokenizer = MustLoad(TinyBpe(kAddsNothing));
  EXPECT_THAT(tokenizer->Encode("<s>ab", api::Bos::kDefault, false)->ids, ElementsAre(7, 8, 9, 12));
  EXPECT_THAT(tokenizer->Encode("<s>ab", api::Bos::kDefault, true)->ids, ElementsAre(0, 12));
  EXPECT_THAT(tokenizer->Encode("<s>ab", api::Bos::kDefault, false)->ids, ElementsAre(7, 8, 9, 12));  // asking changed nothing
  EXPECT_THAT(*tokenizer->EncodePlain("<s>ab"), ElementsAre(7, 8, 9, 12));
  // An added token that is not special belongs to the vocabulary like any other.
  EXPECT_THAT(*tokenizer->EncodePlain("<user>ab"), ElementsAre(2, 12));
}

TEST_F(TokenizerTest, TextThatIsNotUtf8IsRefusedWithTheOffset) {
  auto tokenizer = MustLoad(TinyBpe(kAddsNothing));
  auto encoded = tokenizer->Encode("ab\xC3(", api::Bos::kDefault, false);
  EXPECT_EQ(encoded.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(encoded.status().message()), HasSubstr("offset 2"));
  EXPECT_EQ(tokenizer->EncodePlain("\xFF").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TokenizerTest, DecodesIdsAndRefusesUnknownOnes) {
  auto tokenizer = MustLoad(TinyBpe(kAddsNothing));
  EXPECT_EQ(*tokenizer->Decode({0, 12, 13, 5, 10, 11}, false), "<s>ab abc\xC3\xA9");
  EXPECT_EQ(*tokenizer->Decode({0, 12, 13, 1}, true), "ab ab");
  for (int64_t id : {int64_t{18}, int64_t{-1}, int64_t{1} << 40}) {
    auto text = tokenizer->Decode({3, id}, false);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << id;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(std::to_string(id)));
  }
}

TEST_F(TokenizerTest, LabelsShowSpacesHalfCharactersAndIdsWithoutAToken) {
  auto tokenizer = MustLoad(TinyBpe(kAddsNothing));
  EXPECT_EQ(tokenizer->TokenText(13), " ab");
  EXPECT_EQ(tokenizer->TokenText(0), "<s>");
  EXPECT_EQ(tokenizer->TokenText(10), "\xEF\xBF\xBD");  // U+FFFD
  EXPECT_EQ(tokenizer->TokenText(99), "[id 99]");
  EXPECT_EQ(tokenizer->TokenText(-5), "[id -5]");
}

TEST_F(TokenizerTest, TruncationAndPaddingOfTheFileAreIgnored) {
  auto tokenizer = MustLoad(TinyBpe(kAddsNothing, R"(
    "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
                "pad_token": "<s>"},)"));
  EXPECT_THAT(tokenizer->Encode("abcabc", api::Bos::kDefault, false)->ids, ElementsAre(12, 5, 12, 5));
}

TEST_F(TokenizerTest, HashesTheFileAsItIs) {
  Write("tokenizer.json", TinyBpe(kAddsNothing));
  const std::string path = (directory_ / "tokenizer.json").string();
  FILE* pipe = popen(("sha256sum < '" + path + "'").c_str(), "r");
  char expected[65] = {};
  ASSERT_EQ(fread(expected, 1, 64, pipe), 64u);
  pclose(pipe);
  EXPECT_EQ((*Load())->sha256(), expected);
}

TEST_F(TokenizerTest, ManyThreadsGetTheSameAnswers) {
  auto tokenizer = MustLoad(TinyBpe(AddsBos()));
  std::vector<std::jthread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, parse = i % 2 == 0] {
      const std::vector<int64_t> expected = parse ? std::vector<int64_t>{0, 12, 13, 0} : std::vector<int64_t>{0, 12, 13, 7, 8, 9};
      for (int n = 0; n < 500; ++n) wrong += tokenizer->Encode("ab ab<s>", api::Bos::kDefault, parse)->ids != expected;
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

// SentencePiece-like vocabularies with scores hold their special tokens as ordinary pieces: there "<s>" in a text always is the token.
TEST_F(TokenizerTest, ATokenThatCannotBeReadAsTextIsRefusedUnlessAskedFor) {
  auto tokenizer = MustLoad(R"({"version": "1.0", "added_tokens": [
    {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null, "post_processor": null, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["<s>", 0], ["▁", -2], ["a", -1], ["▁a", -1.5], ["<", -9], [">", -9],
              ["s", -9]]}})");
  EXPECT_THAT(*tokenizer->EncodePlain("a z"), ElementsAre(4, 2, 0));  // an unknown letter is fine
  auto refused = tokenizer->EncodePlain("a<s>");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("\"<s>\""));
  EXPECT_THAT(tokenizer->Encode("a<s>", api::Bos::kNever, true)->ids, ElementsAre(4, 1));
  EXPECT_EQ(tokenizer->TokenText(4), " a");  // although a text that begins with it reads "a"
  EXPECT_EQ(*tokenizer->Decode({4}, false), "a");
}

}  // namespace
}  // namespace fluoroscope::tokenizer
