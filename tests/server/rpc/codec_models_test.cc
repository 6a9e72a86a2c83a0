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
  const api::ModelList list{.loaded = {details.info, details.info},
                            .others = {{"a", api::ModelState::kAvailable, 0, 0}, {"b", api::ModelState::kLoading, 1, 4}},
                            .weights_bytes = 5,
                            .weights_budget_bytes = 9};
  v1::ListModelsReply all = EncodeModelList(list);
  EXPECT_EQ(all.models_size(), 2);
  all.clear_models();
  EXPECT_EQ(all.ShortDebugString(),
            "others { name: \"a\" state: STATE_AVAILABLE } others { name: \"b\" state: STATE_LOADING loaded_bytes: 1 total_bytes: 4 } "
            "weights_bytes: 5 weights_budget_bytes: 9");
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

TEST(CodecModelsTest, LoadAndUnload) {
  v1::LoadModelRequest load;
  EXPECT_EQ(DecodeLoadModel(load).status().message(), "model is empty; Models.ListModels gives the names");
  load.set_model("m");
  EXPECT_EQ(DecodeLoadModel(load)->dtype, "");
  load.set_dtype("bf16");
  EXPECT_EQ(DecodeLoadModel(load)->name, "m");
  EXPECT_EQ(DecodeLoadModel(load)->dtype, "bf16");
  load.set_dtype("int8");
  EXPECT_EQ(DecodeLoadModel(load).status().message(), "dtype is \"int8\"; it must be f32, bf16 or f16, or absent for the model's own");
  v1::UnloadModelRequest unload;
  EXPECT_EQ(DecodeUnloadModel(unload).status().code(), absl::StatusCode::kInvalidArgument);
  unload.set_model("m");
  EXPECT_EQ(*DecodeUnloadModel(unload), "m");
  EXPECT_EQ(EncodeUnloaded({.still_in_use = true}).ShortDebugString(), "still_in_use: true");
  EXPECT_TRUE(EncodeLoaded({.info = {}, .was_loaded = true}).was_loaded());
}

TEST(CodecModelsTest, ModelNamesAreShort) {
  v1::GetModelRequest request;
  request.set_model(std::string(65, 'x'));
  EXPECT_EQ(DecodeGetModel(request).status().message(), "model has 65 bytes; names have at most 64");
}

}  // namespace
}  // namespace fluoroscope::rpc
