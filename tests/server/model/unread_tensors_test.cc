// A checkpoint is loaded when its tensors are those that config.json asks for: none is missing, and none is left over.
#include "model/unread_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/model.h"
#include "tests/server/tensor/safetensors_bytes.h"

namespace fluoroscope::model {
namespace {

using tensor::TempDir;
using testing::HasSubstr;

struct Stored {
  std::vector<int64_t> shape;
  float value = 0.0f;  // of all entries
  const char* dtype = "F32";
};
using Tensors = std::map<std::string, Stored>;

std::string FileOf(const Tensors& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, stored] : tensors) {
    size_t count = 1;
    for (const int64_t size : stored.shape) count *= static_cast<size_t>(size);
    const size_t begin = data.size();
    if (stored.dtype == std::string("F32")) {
      data += tensor::RawBytes(std::vector<float>(count, stored.value));
    } else {
      data += std::string(2 * count, '\0');
    }
    header[name] = {{"dtype", stored.dtype}, {"shape", stored.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return tensor::SafetensorsBytes(header.dump(), data);
}

constexpr char kLlamaConfig[] = R"({"model_type":"llama","num_hidden_layers":2,"hidden_size":8,"num_attention_heads":2,)"
                                R"("num_key_value_heads":1,"intermediate_size":6,"vocab_size":5,"max_position_embeddings":16)";
constexpr char kGpt2Config[] = R"({"model_type":"gpt2","n_layer":2,"n_embd":8,"n_head":2,"n_inner":6,"vocab_size":5,"n_positions":16})";

std::string PlainLlama(const std::string& more = "") { return kLlamaConfig + more + "}"; }

void AddLlamaLayer(Tensors& tensors, int layer) {
  const std::string at = "model.layers." + std::to_string(layer) + ".";
  tensors[at + "input_layernorm.weight"] = tensors[at + "post_attention_layernorm.weight"] = {{8}, 1};
  tensors[at + "self_attn.q_proj.weight"] = tensors[at + "self_attn.o_proj.weight"] = {{8, 8}, 0.1f};
  tensors[at + "self_attn.k_proj.weight"] = tensors[at + "self_attn.v_proj.weight"] = {{4, 8}, 0.1f};
  tensors[at + "mlp.gate_proj.weight"] = tensors[at + "mlp.up_proj.weight"] = {{6, 8}, 0.1f};
  tensors[at + "mlp.down_proj.weight"] = {{8, 6}, 0.1f};
}

Tensors Llama() {
  Tensors tensors{{"model.embed_tokens.weight", {{5, 8}, 0.5f}}, {"model.norm.weight", {{8}, 1}}};
  for (int layer = 0; layer < 2; ++layer) AddLlamaLayer(tensors, layer);
  return tensors;
}

Tensors UntiedLlama() {
  Tensors tensors = Llama();
  tensors["lm_head.weight"] = {{5, 8}, 0.25f};
  return tensors;
}

Tensors Gpt2(const std::string& prefix) {
  Tensors tensors{{prefix + "wte.weight", {{5, 8}, 0.5f}},
                  {prefix + "wpe.weight", {{16, 8}, 0.5f}},
                  {prefix + "ln_f.weight", {{8}, 1}},
                  {prefix + "ln_f.bias", {{8}}}};
  const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
    tensors[name + ".weight"] = {{in, out}, 0.1f};
    tensors[name + ".bias"] = {{out}};
  };
  for (int layer = 0; layer < 2; ++layer) {
    const std::string at = prefix + "h." + std::to_string(layer) + ".";
    for (const char* norm : {"ln_1", "ln_2"}) {
      tensors[at + norm + ".weight"] = {{8}, 1};
      tensors[at + norm + ".bias"] = {{8}};
    }
    linear(at + "attn.c_attn", 8, 24);
    linear(at + "attn.c_proj", 8, 8);
    linear(at + "mlp.c_fc", 8, 6);
    linear(at + "mlp.c_proj", 6, 8);
  }
  return tensors;
}

class UnreadTensorsTest : public testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<const Model>> Load(const std::string& config, const Tensors& tensors) {
    dir_.Write("config.json", config);
    dir_.Write("model.safetensors", FileOf(tensors));
    progress_ = std::make_unique<residency::LoadProgress>();
    return Model::Load(dir_.path(), {"", at::kCPU, progress_.get()});
  }
  // The message with which both Load and Measure refuse the checkpoint, without having read a weight.
  std::string Refusal(const std::string& config, const Tensors& tensors) {
    const absl::Status status = Load(config, tensors).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(progress_->done_bytes, 0u);
    EXPECT_EQ(Model::Measure(dir_.path(), {}).status(), status);
    return std::string(status.message());
  }

  TempDir dir_;
  std::unique_ptr<residency::LoadProgress> progress_;  // of the last load
};

TEST_F(UnreadTensorsTest, ACheckpointWithWhatItsConfigurationAsksForIsLoaded) {
  const auto model = Load(PlainLlama(), UntiedLlama());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->weights.embed[0][0].item<float>(), 0.5f);
  EXPECT_EQ((*model)->weights.unembed.weight[0][0].item<float>(), 0.25f);
  EXPECT_TRUE(Model::Measure(dir_.path(), {}).ok());
  for (const char* prefix : {"", "transformer."}) {
    const auto gpt2 = Load(kGpt2Config, Gpt2(prefix));
    ASSERT_TRUE(gpt2.ok()) << gpt2.status();
    EXPECT_TRUE((*gpt2)->weights.unembed.weight.is_same((*gpt2)->weights.embed));
  }
}

TEST_F(UnreadTensorsTest, OneTensorTooManyIsNamedWithWhatItMeans) {
  Tensors tensors = UntiedLlama();
  tensors["model.layers.1.self_attn.o_proj.bias"] = {{8}};
  EXPECT_EQ(
      Refusal(PlainLlama(), tensors),
      "the checkpoint has a tensor that config.json does not ask for: \"model.layers.1.self_attn.o_proj.bias\". Without it the model "
      "would give other numbers than the one that was saved. Either config.json contradicts the weights (say, in a flag for biases or "
      "in the number of layers), or this belongs to a part that llama models do not have here");
}

TEST_F(UnreadTensorsTest, OfManyTheFirstFewAreNamed) {
  Tensors tensors = UntiedLlama();
  AddLlamaLayer(tensors, 2);  // behind num_hidden_layers
  EXPECT_THAT(Refusal(PlainLlama(), tensors),
              HasSubstr("the checkpoint has 9 tensors that config.json does not ask for: \"model.layers.2.input_layernorm.weight\", "
                        "\"model.layers.2.mlp.down_proj.weight\", \"model.layers.2.mlp.gate_proj.weight\" and 6 more. Without them"));
}

TEST_F(UnreadTensorsTest, EveryOtherNameIsRefused) {
  for (const char* name :
       {"lm_head.bias", "model.embed_tokens.bias", "model.norm.bias", "embed_tokens.weight", "score.weight",
        "model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.attn.bias",
        // Not quite the buffers:
        "model.layers.x.self_attn.rotary_emb.inv_freq", "model.layers..self_attn.rotary_emb.inv_freq",
        "layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freqs",
        "model.layers.0.1.self_attn.rotary_emb.inv_freq"}) {
    Tensors tensors = UntiedLlama();
    tensors[name] = {{8}};
    EXPECT_THAT(Refusal(PlainLlama(), tensors), HasSubstr(std::string("\"") + name + "\"."));
  }
  for (const char* name :
       {"h.0.attn.masked_bias", "transformer.attn.bias", "transformer.h.0.crossattention.bias", "transformer.wte.bias"}) {
    Tensors tensors = Gpt2("transformer.");
    tensors[name] = {{8}};
    EXPECT_THAT(Refusal(kGpt2Config, tensors), HasSubstr(std::string("\"") + name + "\"."));
  }
}

TEST_F(UnreadTensorsTest, NamesAreEscapedAndCut) {
  Tensors tensors = UntiedLlama();
  tensors["a\n" + std::string(1000, 'b')] = {{8}};
  EXPECT_THAT(Refusal(PlainLlama(), tensors), HasSubstr("ask for: \"a\\n" + std::string(118, 'b') + "…\"."));
}

TEST_F(UnreadTensorsTest, TensorsThatTheIndexLeavesOutCount) {
  const Tensors tensors = UntiedLlama();
  nlohmann::json map;
  for (const auto& [name, stored] : tensors) map[name] = "a.safetensors";
  dir_.Write("config.json", PlainLlama());
  dir_.Write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  dir_.Write("a.safetensors", FileOf(tensors));
  EXPECT_TRUE(Model::Load(dir_.path(), {}).ok());
  Tensors more = tensors;
  more["model.layers.0.mlp.up_proj.bias"] = {{6}};
  dir_.Write("a.safetensors", FileOf(more));
  EXPECT_THAT(std::string(Model::Load(dir_.path(), {}).status().message()), HasSubstr("\"model.layers.0.mlp.up_proj.bias\""));
}

TEST_F(UnreadTensorsTest, BuffersMayBeThere) {
  Tensors llama = UntiedLlama();
  llama["model.layers.0.self_attn.rotary_emb.inv_freq"] = llama["model.layers.11.self_attn.rotary_emb.inv_freq"] = {{2}, 7};
  llama["model.rotary_emb.inv_freq"] = {{2}, 7, "F16"};
  const auto with = Load(PlainLlama(), llama);
  ASSERT_TRUE(with.ok()) << with.status();
  const auto without = Load(PlainLlama(), UntiedLlama());
  ASSERT_TRUE(without.ok());
  EXPECT_TRUE(at::equal((*with)->rotary_cos, (*without)->rotary_cos)) << "the frequencies are the configuration's";
  for (const std::string prefix : {"", "transformer."}) {
    Tensors gpt2 = Gpt2(prefix);
    for (const char* layer : {"h.0.", "h.1."}) {
      gpt2[prefix + layer + "attn.bias"] = {{1, 1, 16, 16}, 1};
      gpt2[prefix + layer + "attn.masked_bias"] = {{}, -1e4f};
    }
    const auto model = Load(kGpt2Config, gpt2);
    EXPECT_TRUE(model.ok()) << model.status();
  }
}

TEST_F(UnreadTensorsTest, ATiedUnembeddingMayBeThereIfItIsTheEmbedding) {
  const std::string tied = PlainLlama(R"(,"tie_word_embeddings":true)");
  EXPECT_TRUE(Load(tied, Llama()).ok());
  Tensors both = Llama();
  both["lm_head.weight"] = both["model.embed_tokens.weight"];
  const auto model = Load(tied, both);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->weights.unembed.weight.is_same((*model)->weights.embed));
  for (const std::string prefix : {"", "transformer."}) {
    Tensors gpt2 = Gpt2(prefix);
    gpt2["lm_head.weight"] = gpt2[prefix + "wte.weight"];
    EXPECT_TRUE(Load(kGpt2Config, gpt2).ok()) << "'" << prefix << "'";
  }

  const auto refusal = [&](const Stored& head) {
    both["lm_head.weight"] = head;
    const absl::Status status = Load(tied, both).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  const std::string differs =
      "tensor \"lm_head.weight\" differs from \"model.embed_tokens.weight\"; config.json's tie_word_embeddings (which may be a default) "
      "says that both are one matrix";
  EXPECT_EQ(refusal({{5, 8}, 0.25f}), differs);
  EXPECT_EQ(progress_->done_bytes, 160u) << "nothing but the embedding was read";
  EXPECT_EQ(refusal({{5, 8}, 0.5f, "F16"}), differs) << "another dtype";
  EXPECT_THAT(refusal({{5, 9}, 0.5f}), HasSubstr("\"lm_head.weight\" in model.safetensors has shape [5, 9], expected [5, 8]"));
}

}  // namespace
}  // namespace fluoroscope::model
