// Every config field that matters is read or refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "model/families/family.h"
#include "model/rotary.h"

namespace fluoroscope::model {
namespace {

nlohmann::json LlamaConfig() {
  return {{"model_type", "llama"},    {"num_hidden_layers", 2},  {"hidden_size", 24},     {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"intermediate_size", 40}, {"vocab_size", 61},      {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5},     {"hidden_act", "silu"},    {"rope_theta", 50000.0}, {"tie_word_embeddings", true}};
}

nlohmann::json Gpt2Config() {
  return {{"model_type", "gpt2"}, {"n_layer", 2}, {"n_embd", 20}, {"n_head", 5}, {"vocab_size", 53}, {"n_positions", 48}};
}

nlohmann::json With(nlohmann::json config, const char* field, const nlohmann::json& value) {
  config[field] = value;
  return config;
}

std::string ErrorOf(const Family& family, const nlohmann::json& config) { return std::string(family.parse(config).status().message()); }

TEST(LlamaConfigTest, ReadsAllFields) {
  const auto arch = kLlama.parse(LlamaConfig());
  ASSERT_TRUE(arch.ok()) << arch.status();
  EXPECT_EQ(arch->layers, 2);
  EXPECT_EQ(arch->kv_heads, 2);
  EXPECT_EQ(arch->d_head, 6);
  EXPECT_DOUBLE_EQ(arch->norm_eps, 1e-5);
  EXPECT_DOUBLE_EQ(arch->rotary.theta, 50000.0);
  EXPECT_TRUE(arch->tied_unembedding);
  EXPECT_TRUE(arch->gated_mlp);
}

TEST(LlamaConfigTest, OldAndNewRopeSpellingsAgree) {
  nlohmann::json old_spelling = LlamaConfig(), new_spelling = LlamaConfig();
  old_spelling["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  new_spelling.erase("rope_theta");
  new_spelling["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 50000.0}};
  const auto a = kLlama.parse(old_spelling), b = kLlama.parse(new_spelling);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(at::equal(RotaryTables(*a, at::kFloat, at::kCPU).first, RotaryTables(*b, at::kFloat, at::kCPU).first));
}

TEST(LlamaConfigTest, RefusesByName) {
  const auto with = [](const char* field, const nlohmann::json& value) { return With(LlamaConfig(), field, value); };
  EXPECT_THAT(ErrorOf(kLlama, with("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}})), testing::HasSubstr("rope_type 'yarn'"));
  EXPECT_THAT(ErrorOf(kLlama, with("pretraining_tp", 2)), testing::HasSubstr("pretraining_tp"));
  EXPECT_THAT(ErrorOf(kLlama, with("hidden_act", "quick_gelu")), testing::HasSubstr("quick_gelu"));
  EXPECT_THAT(ErrorOf(kLlama, with("quantization_config", {{"bits", 4}})), testing::HasSubstr("quantization_config"));
  EXPECT_THAT(ErrorOf(kLlama, with("num_key_value_heads", 3)), testing::HasSubstr("num_key_value_heads"));
  EXPECT_THAT(ErrorOf(kLlama, with("hidden_size", -1)), testing::HasSubstr("hidden_size"));
  EXPECT_THAT(ErrorOf(kLlama, with("hidden_size", "large")), testing::HasSubstr("hidden_size"));
  nlohmann::json missing = LlamaConfig();
  missing.erase("vocab_size");
  EXPECT_THAT(ErrorOf(kLlama, missing), testing::HasSubstr("vocab_size is missing"));
}

// Fields of relatives of Llama: read as plain Llama, such a checkpoint would run and give other numbers.
TEST(LlamaConfigTest, RefusesWhatWouldChangeTheMathematics) {
  const std::pair<const char*, nlohmann::json> fields[] = {
      {"quantization_config", {{"bits", 4}}}, {"sliding_window", 4096},       {"attn_logit_softcapping", 50.0},
      {"final_logit_softcapping", 30.0},      {"embedding_multiplier", 12.0}, {"residual_multiplier", 0.2},
      {"attention_multiplier", 0.015},        {"logits_scaling", 8.0},        {"use_qk_norm", true}};
  for (const auto& [field, value] : fields) {
    EXPECT_THAT(ErrorOf(kLlama, With(LlamaConfig(), field, value)),
                testing::AllOf(testing::HasSubstr(field), testing::HasSubstr("not supported")))
        << field;
    // As transformers writes a field that is switched off.
    EXPECT_TRUE(kLlama.parse(With(LlamaConfig(), field, nullptr)).ok()) << field;
    EXPECT_TRUE(kLlama.parse(With(LlamaConfig(), field, false)).ok()) << field;
  }
}

TEST(LlamaConfigTest, RefusesHalfRotatedHeadsInEitherSpelling) {
  const nlohmann::json half = {{"rope_type", "default"}, {"rope_theta", 50000.0}, {"partial_rotary_factor", 0.5}};
  for (const nlohmann::json& config : {With(LlamaConfig(), "partial_rotary_factor", 0.5), With(LlamaConfig(), "rope_parameters", half)})
    EXPECT_THAT(ErrorOf(kLlama, config), testing::HasSubstr("partial_rotary_factor"));
  EXPECT_TRUE(kLlama.parse(With(LlamaConfig(), "partial_rotary_factor", 1.0)).ok());
}

TEST(Gpt2ConfigTest, RefusesByName) {
  const std::pair<const char*, nlohmann::json> fields[] = {{"scale_attn_by_inverse_layer_idx", true},
                                                           {"reorder_and_upcast_attn", true},
                                                           {"add_cross_attention", true},
                                                           {"quantization_config", {{"bits", 4}}}};
  for (const auto& [field, value] : fields) {
    EXPECT_THAT(ErrorOf(kGpt2, With(Gpt2Config(), field, value)),
                testing::AllOf(testing::HasSubstr(field), testing::HasSubstr("not supported")))
        << field;
    EXPECT_TRUE(kGpt2.parse(With(Gpt2Config(), field, false)).ok()) << field;
  }
  EXPECT_THAT(ErrorOf(kGpt2, With(Gpt2Config(), "n_head", 3)), testing::HasSubstr("n_embd must be a multiple of n_head"));
  EXPECT_THAT(ErrorOf(kGpt2, With(Gpt2Config(), "activation_function", "quick_gelu")), testing::HasSubstr("quick_gelu"));
}

TEST(Gpt2ConfigTest, Reads) {
  const auto arch = kGpt2.parse(Gpt2Config());
  ASSERT_TRUE(arch.ok()) << arch.status();
  EXPECT_EQ(arch->d_mlp, 80);
  EXPECT_TRUE(arch->qkv_bias);
  EXPECT_EQ(arch->activation, Activation::kGeluTanh);
}

}  // namespace
}  // namespace fluoroscope::model
