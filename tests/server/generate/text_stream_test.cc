#include "generate/text_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/tokenizer/tiny.h"

namespace fluoroscope::generate {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Ids: 3 "a" 4 "b" 5 "c" 6 " " 8 "s" 10 0xC3 11 0xA9 12 "ab" 13 " ab"; 0xC3 0xA9 is "é".
class TextStreamTest : public tokenizer::TokenizerTest {
 protected:
  void SetUp() override {
    TokenizerTest::SetUp();
    tokenizer_ = MustLoad(tokenizer::TinyBpe(tokenizer::kAddsNothing));
  }

  TextStream Stream(std::vector<int64_t> prompt = {3}) { return TextStream(tokenizer_.get(), stop_, prompt); }

  static api::GeneratedToken Token(int64_t id) {
    api::GeneratedToken token;
    token.id = id;
    return token;
  }

  // The texts that come out after each token.
  static std::vector<std::string> Texts(const std::vector<api::GeneratedToken>& tokens) {
    std::vector<std::string> texts;
    for (const api::GeneratedToken& token : tokens) texts.push_back(token.text);
    return texts;
  }

  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
  std::vector<std::string> stop_;
};

TEST_F(TextStreamTest, TokensComeOutAtOnce) {
  TextStream stream = Stream();
  EXPECT_EQ(stream.Add(Token(12)), std::nullopt);
  EXPECT_THAT(Texts(stream.Take()), ElementsAre("ab"));
  EXPECT_EQ(stream.Add(Token(13)), std::nullopt);
  EXPECT_THAT(Texts(stream.Take()), ElementsAre(" ab"));
  EXPECT_EQ(stream.Add(Token(5)), std::nullopt);
  const auto last = stream.Finish(api::FinishReason::kLength, std::nullopt);
  EXPECT_THAT(Texts(last), ElementsAre("c"));
  EXPECT_EQ(last[0].finish, api::FinishReason::kLength);
}

TEST_F(TextStreamTest, ACharacterComesWithItsLastByte) {
  TextStream stream = Stream();
  stream.Add(Token(10));
  EXPECT_THAT(Texts(stream.Take()), ElementsAre(""));
  stream.Add(Token(11));
  EXPECT_THAT(Texts(stream.Take()), ElementsAre("\xC3\xA9"));
  stream.Add(Token(10));
  EXPECT_THAT(Texts(stream.Finish(api::FinishReason::kLength, std::nullopt)), ElementsAre("\xEF\xBF\xBD"));
}

TEST_F(TextStreamTest, BytesThatNeverBecomeACharacterDoNotPileUp) {
  TextStream stream = Stream();
  std::string text;
  int silent = 0;
  for (int i = 0; i < 40; ++i) {
    stream.Add(Token(10));
    for (const std::string& part : Texts(stream.Take())) {
      text += part;
      silent = part.empty() ? silent + 1 : 0;
      EXPECT_LT(silent, 16);
    }
  }
  stream.Add(Token(3));
  for (const std::string& part : Texts(stream.Finish(api::FinishReason::kLength, std::nullopt))) text += part;
  std::vector<int64_t> ids(40, 10);
  ids.push_back(3);
  EXPECT_EQ(text, *tokenizer_->Decode(ids, false));
}

TEST_F(TextStreamTest, APromptThatEndsWithinACharacter) {
  TextStream stream = Stream({3, 10});
  stream.Add(Token(11));
  EXPECT_THAT(Texts(stream.Take()), ElementsAre("\xC3\xA9"));
  stream.Add(Token(3));
  EXPECT_THAT(Texts(stream.Take()), ElementsAre("a"));
}

TEST_F(TextStreamTest, AStopStringAcrossTokens) {
  stop_ = {"bca"};
  TextStream stream = Stream();
  EXPECT_EQ(stream.Add(Token(13)), std::nullopt);  // " ab": the b may be the beginning
  EXPECT_THAT(stream.Take(), IsEmpty());
  EXPECT_EQ(stream.Add(Token(5)), std::nullopt);
  EXPECT_THAT(stream.Take(), IsEmpty());
  EXPECT_EQ(stream.Add(Token(12)), 0u);  // "ab"
  const auto all = stream.Finish(api::FinishReason::kStop, 0);
  EXPECT_THAT(Texts(all), ElementsAre(" a", "", ""));
  EXPECT_EQ(all[0].finish, std::nullopt);
  EXPECT_EQ(all[2].finish, api::FinishReason::kStop);
  EXPECT_EQ(all[2].stop, 0u);
}

TEST_F(TextStreamTest, WhatIsNoStopStringAfterAllComesOut) {
  stop_ = {"bcc", "cs"};
  TextStream stream = Stream();
  stream.Add(Token(4));  // b
  EXPECT_THAT(stream.Take(), IsEmpty());
  stream.Add(Token(5));  // c
  EXPECT_THAT(stream.Take(), IsEmpty());
  stream.Add(Token(3));  // a
  EXPECT_THAT(Texts(stream.Take()), ElementsAre("b", "c", "a"));
  stream.Add(Token(5));
  EXPECT_THAT(stream.Take(), IsEmpty());
  EXPECT_THAT(Texts(stream.Finish(api::FinishReason::kLength, std::nullopt)), ElementsAre("c"));
}

TEST_F(TextStreamTest, TheStopStringThatBeginsFirstCounts) {
  stop_ = {"b", "ab", "abc"};
  TextStream stream = Stream();
  EXPECT_EQ(stream.Add(Token(13)), 1u);
  EXPECT_THAT(Texts(stream.Finish(api::FinishReason::kStop, 1)), ElementsAre(" "));
}

TEST_F(TextStreamTest, AStopStringIsNotLookedForInThePrompt) {
  stop_ = {"ab"};
  TextStream stream = Stream({3});  // "a"
  EXPECT_EQ(stream.Add(Token(4)), std::nullopt);
  EXPECT_THAT(Texts(stream.Take()), ElementsAre("b"));
}

TEST_F(TextStreamTest, ATokenThatEndsTheSequenceIsSilent) {
  stop_ = {"bc"};
  TextStream stream = Stream();
  stream.Add(Token(4));
  stream.AddSilently(Token(1));
  const auto all = stream.Finish(api::FinishReason::kEndOfSequence, std::nullopt);
  EXPECT_THAT(Texts(all), ElementsAre("b", ""));
  EXPECT_EQ(all[1].finish, api::FinishReason::kEndOfSequence);
}

TEST_F(TextStreamTest, IdsThatNoTokenHasAndNoTokenizer) {
  TextStream stream = Stream();
  stream.Add(Token(99));
  EXPECT_THAT(Texts(stream.Take()), ElementsAre("[id 99]"));
  TextStream mute(nullptr, stop_, {3});
  mute.Add(Token(3));
  EXPECT_THAT(Texts(mute.Take()), ElementsAre(""));
}

}  // namespace
}  // namespace fluoroscope::generate
