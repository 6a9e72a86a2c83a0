// Every config field that matters is read or refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

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
  const auto with = [](const char* field, const nlohmann::json& value) {
    nlohmann::json config = LlamaConfig();
    config[field] = value;
    return config;
  };
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

TEST(Gpt2ConfigTest, ReadsAndRefuses) {
  const auto arch = kGpt2.parse(Gpt2Config());
  ASSERT_TRUE(arch.ok()) << arch.status();
  EXPECT_EQ(arch->d_mlp, 80);
  EXPECT_TRUE(arch->qkv_bias);
  EXPECT_EQ(arch->activation, Activation::kGeluTanh);
  nlohmann::json config = Gpt2Config();
  config["scale_attn_by_inverse_layer_idx"] = true;
  EXPECT_THAT(ErrorOf(kGpt2, config), testing::HasSubstr("scale_attn_by_inverse_layer_idx"));
}

}  // namespace
}  // namespace fluoroscope::model
