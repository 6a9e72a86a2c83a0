#include "model/families/config_reader.h"
#include "model/families/family.h"

namespace fluoroscope::model {

std::span<const Family* const> Families() {
  static const Family* const families[] = {&kGpt2, &kLlama};
  return families;
}

absl::StatusOr<Activation> ParseActivation(const std::string& name) {
  struct Entry {
    std::string_view name;
    Activation activation;
  };
  static constexpr Entry entries[] = {
      {"gelu", Activation::kGelu}, {"gelu_new", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"relu", Activation::kRelu}, {"silu", Activation::kSilu},         {"swish", Activation::kSilu},
  };
  std::string known;
  for (const Entry& entry : entries) {
    if (entry.name == name) return entry.activation;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  return absl::InvalidArgumentError("config.json: unknown activation '" + name + "'; known: " + known);
}

absl::StatusOr<Rotary> ParseRotary(const nlohmann::json& config, double default_theta) {
  ConfigReader reader(config);
  Rotary rotary;
  const bool is_new = reader.Given("rope_parameters");
  const nlohmann::json parameters = reader.Object(is_new ? "rope_parameters" : "rope_scaling");
  if (!reader.status().ok()) return reader.status();

  ConfigReader rope(parameters);
  rotary.theta = reader.Number("rope_theta", default_theta);
  rotary.theta = rope.Number("rope_theta", rotary.theta);
  if (!(rotary.theta > 0)) rope.Fail("rope_theta must be positive");
  if (rope.Number("partial_rotary_factor", reader.Number("partial_rotary_factor", 1.0)) != 1.0)
    rope.Fail("partial_rotary_factor other than 1 is not supported for this family");
  // Before "rope_type" the field was called "type".
  const std::string type = rope.String("rope_type", rope.String("type", "default"));
  if (type == "default") {
    rotary.scaling = Rotary::Scaling::kNone;
  } else if (type == "linear" || type == "llama3") {
    rotary.scaling = type == "linear" ? Rotary::Scaling::kLinear : Rotary::Scaling::kLlama3;
    rotary.factor = rope.Number("factor", 0.0);
    if (!(rotary.factor >= 1.0)) rope.Fail("rope factor must be given and at least 1 for rope_type " + type);
  } else {
    rope.Fail("rope_type '" + type + "' is not supported; supported: default, linear, llama3");
  }
  if (rotary.scaling == Rotary::Scaling::kLlama3) {
    rotary.low_frequency = rope.Number("low_freq_factor", 0.0);
    rotary.high_frequency = rope.Number("high_freq_factor", 0.0);
    rotary.original_context = rope.Number("original_max_position_embeddings", 0.0);
    if (!(rotary.low_frequency > 0 && rotary.high_frequency > rotary.low_frequency && rotary.original_context > 0))
      rope.Fail("rope_type llama3 needs low_freq_factor < high_freq_factor and original_max_position_embeddings, all positive");
  }
  if (!rope.status().ok()) return rope.status();
  if (!reader.status().ok()) return reader.status();
  return rotary;
}

}  // namespace fluoroscope::model
