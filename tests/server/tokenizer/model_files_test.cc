// End-of-sequence tokens and chat templates, as the files beside a tokenizer have them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/tokenizer/tiny.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/end_tokens.h"

namespace fluoroscope::tokenizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

using ModelFilesTest = TokenizerTest;

TEST_F(ModelFilesTest, EndTokensAreThoseOfTheGenerationConfig) {
  EXPECT_THAT(*FindEndTokens(directory_.string()), IsEmpty());
  Write("config.json", R"({"eos_token_id": 3})");
  EXPECT_THAT(*FindEndTokens(directory_.string()), ElementsAre(3));
  Write("generation_config.json", R"({"eos_token_id": [2, 7, -1]})");
  EXPECT_THAT(*FindEndTokens(directory_.string()), ElementsAre(2, 7));
  Write("generation_config.json", R"({"eos_token_id": null})");
  EXPECT_THAT(*FindEndTokens(directory_.string()), ElementsAre(3));
  Write("generation_config.json", R"({"eos_token_id": "</s>"})");
  EXPECT_THAT(std::string(FindEndTokens(directory_.string()).status().message()), HasSubstr("eos_token_id must be a token id"));
}

TEST_F(ModelFilesTest, TheChatTemplate) {
  EXPECT_FALSE(FindChatTemplate(directory_.string())->has_value());
  Write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null, "chat_template": "one"})");
  auto found = FindChatTemplate(directory_.string());
  ASSERT_TRUE(found.ok() && found->has_value());
  EXPECT_EQ((*found)->text, "one");
  EXPECT_THAT((*found)->special_tokens, ElementsAre(Pair("bos_token", "<s>"), Pair("eos_token", "</s>")));
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "two"}]})");
  EXPECT_EQ((*FindChatTemplate(directory_.string()))->text, "two");
  Write("chat_template.jinja", "three");
  EXPECT_EQ((*FindChatTemplate(directory_.string()))->text, "three");
  Write("tokenizer_config.json", "[1]");
  EXPECT_THAT(std::string(FindChatTemplate(directory_.string()).status().message()), HasSubstr("is not a JSON object"));
}

TEST_F(ModelFilesTest, ATemplateThatIsNoText) {
  Write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_EQ(FindChatTemplate(directory_.string()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fluoroscope::tokenizer
