#include "rpc/codec_models.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::rpc {
namespace {

using testing::ElementsAre;

TEST(CodecModelsTest, InfoAndSites) {
  api::ModelDetails details;
  details.info = {.name = "n",
                  .family = "llama",
                  .layers = 1,
                  .d_model = 2,
                  .heads = 3,
                  .kv_heads = 4,
                  .d_head = 5,
                  .d_mlp = 6,
                  .vocabulary = 7,
                  .context = 8,
                  .parameters = 9,
                  .weight_bytes = 10,
                  .dtype = "f32",
                  .device = "cpu",
                  .weights_sha256 = "w",
                  .tokenizer_sha256 = "t",
                  .revision = "r",
                  .default_bos = true};
  details.sites = {{.name = "hook_embed",
                    .equation = "W_E[token]",
                    .axes = {"pos", "d_model"},
                    .shape = {-1, 2},
                    .readable = true,
                    .editable = true,
                    .has_gradient = true,
                    .unavailable_because = ""},
                   {.name = "hook_pos_embed", .equation = "", .axes = {}, .shape = {}, .unavailable_because = "rotary"}};
  const v1::GetModelReply reply = EncodeModelDetails(details);
  EXPECT_EQ(
      reply.info().ShortDebugString(),
      "name: \"n\" family: \"llama\" layers: 1 d_model: 2 heads: 3 kv_heads: 4 d_head: 5 d_mlp: 6 vocabulary: 7 context: 8 parameters: 9 "
      "weight_bytes: 10 dtype: \"f32\" device: \"cpu\" weights_sha256: \"w\" tokenizer_sha256: \"t\" revision: \"r\" default_bos: true");
  ASSERT_EQ(reply.sites_size(), 2);
  EXPECT_EQ(
      reply.sites(0).ShortDebugString(),
      "name: \"hook_embed\" equation: \"W_E[token]\" axes: \"pos\" axes: \"d_model\" shape: -1 shape: 2 readable: true editable: true "
      "has_gradient: true");
  EXPECT_EQ(reply.sites(1).unavailable_because(), "rotary");
  EXPECT_EQ(EncodeModelList({details.info, details.info}).models_size(), 2);
}

TEST(CodecModelsTest, TokenizeAndDetokenize) {
  v1::TokenizeRequest tokenize;
  EXPECT_EQ(DecodeTokenize(tokenize, {}).status().message(), "model is empty; Models.ListModels gives the names");
  tokenize.set_model("m");
  EXPECT_EQ(DecodeTokenize(tokenize, {}).status().message(), "prompts is empty: give at least one");
  tokenize.add_prompts()->set_text("hi");
  EXPECT_EQ(std::get<std::string>(DecodeTokenize(tokenize, {})->prompts.at(0).input), "hi");

  v1::DetokenizeRequest detokenize;
  detokenize.set_model("m");
  detokenize.set_skip_special_tokens(true);
  detokenize.add_rows()->add_ids(5);
  EXPECT_THAT(DecodeDetokenize(detokenize, {})->rows.at(0), ElementsAre(5));
  EXPECT_TRUE(DecodeDetokenize(detokenize, {})->skip_special_tokens);
  detokenize.add_rows()->add_ids(-5);
  EXPECT_EQ(DecodeDetokenize(detokenize, {}).status().message(), "rows[1].ids[0] is -5; token ids are not negative");
  EXPECT_EQ(DecodeDetokenize(detokenize, {.max_prompts = 1, .max_tokens = 1}).status().code(), absl::StatusCode::kResourceExhausted);

  const v1::TokenizeReply reply = EncodeTokenized({{.token_ids = {1}, .tokens = {"a"}, .bos_added = true}});
  EXPECT_EQ(reply.ShortDebugString(), "rows { token_ids: 1 tokens: \"a\" bos_added: true }");
  EXPECT_THAT(EncodeDetokenized({"x", "y"}).texts(), ElementsAre("x", "y"));
}

TEST(CodecModelsTest, ModelNamesAreShort) {
  v1::GetModelRequest request;
  request.set_model(std::string(65, 'x'));
  EXPECT_EQ(DecodeGetModel(request).status().message(), "model has 65 bytes; names have at most 64");
}

}  // namespace
}  // namespace fluoroscope::rpc
