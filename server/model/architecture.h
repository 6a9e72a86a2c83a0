// A model as data: everything the shared blocks need to know about an architecture. A family file (families/) fills it in from a
// Hugging Face config.json; the layer loop never asks which family it is running.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fluoroscope::model {

enum class Norm {
  kLayer,  // (x - mean) / sqrt(var + eps) * w + b
  kRms,    // x / sqrt(mean(x^2) + eps) * w
};

enum class PositionScheme {
  kLearned,  // a table added to the token embedding
  kRotary,   // q and k are rotated
};

enum class Activation { kGelu, kGeluTanh, kRelu, kSilu };

// Frequencies of the rotary embedding, as in transformers' modeling_rope_utils.
struct Rotary {
  enum class Scaling { kNone, kLinear, kLlama3 };
  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;            // linear and llama3
  double low_frequency = 1.0;     // llama3
  double high_frequency = 4.0;    // llama3
  double original_context = 0.0;  // llama3
};

struct Architecture {
  std::string family;
  int64_t layers = 0;
  int64_t d_model = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;  // heads for multi-head attention, fewer for grouped-query attention
  int64_t d_head = 0;
  int64_t d_mlp = 0;
  int64_t vocabulary = 0;  // rows of the embedding
  int64_t context = 0;     // longest sequence
  Norm norm = Norm::kLayer;
  double norm_eps = 1e-5;
  PositionScheme positions = PositionScheme::kLearned;
  Rotary rotary;
  double score_scale = 1.0;  // q.k is multiplied by it
  bool qkv_bias = false;
  bool attn_out_bias = false;
  Activation activation = Activation::kGelu;
  bool gated_mlp = false;  // act(gate) * up instead of act(in)
  bool mlp_bias = false;
  bool tied_unembedding = false;

  int64_t q_size() const { return heads * d_head; }
  int64_t kv_size() const { return kv_heads * d_head; }
};

}  // namespace fluoroscope::model
