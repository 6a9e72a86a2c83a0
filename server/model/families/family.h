// One model family: how to read its config.json and where its weights are. To add a family, write one file like llama.cc and add its
// line to the table in families.cc.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/architecture.h"
#include "model/load_weights.h"

namespace fluoroscope::model {

struct Family {
  std::string_view model_type;  // config.json's "model_type"
  absl::StatusOr<Architecture> (*parse)(const nlohmann::json& config);
  // Checkpoints spell their tensors with or without this prefix ("model.", "transformer."); both are accepted.
  std::string_view prefix;
  std::string_view probe;  // a tensor every checkpoint of the family has, after the prefix
  absl::StatusOr<Weights> (*load)(const Architecture& arch, const WeightReader& body, const WeightReader& top);
  // Tensors that checkpoints may have beside those that `load` reads, after the prefix; '*' stands for a layer's number. Only what is no
  // weight belongs here: buffers that follow from the configuration and that old versions of transformers saved. A checkpoint with
  // any other tensor that `load` does not read is refused (unread_tensors.h).
  std::span<const std::string_view> buffers;
};

extern const Family kLlama;
extern const Family kGpt2;

// All families.
std::span<const Family* const> Families();

// INVALID_ARGUMENT for an unknown name, with the known ones.
absl::StatusOr<Activation> ParseActivation(const std::string& name);

// Rotary settings in the new spelling (`rope_parameters`) and the old one (`rope_theta` beside `rope_scaling`).
absl::StatusOr<Rotary> ParseRotary(const nlohmann::json& config, double default_theta);

}  // namespace fluoroscope::model
