// What the clients that measure many rows share: one user's request, and how times are printed.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "client/client.h"

namespace fluoroscope::bench {

using Clock = std::chrono::steady_clock;

inline constexpr char kPrompt[] = "When John and Mary went to the shops, John gave the bag to";

inline double MillisecondsSince(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  std::exit(1);
}

// One measurement: its name, and its values of all rounds.
inline void Print(const std::string& name, const std::vector<double>& values) {
  std::printf("%s", name.c_str());
  for (const double value : values) std::printf(" %.4f", value);
  std::printf("\n");
  std::fflush(stdout);
}

inline void SetTensor(v1::Tensor* tensor, const std::vector<float>& values) {
  tensor->set_dtype(v1::DTYPE_F32);
  tensor->add_shape(static_cast<int64_t>(values.size()));
  tensor->set_data(values.data(), values.size() * sizeof(float));
}

// What user number n wants to know: another layer, kind and position for each.
inline v1::ForwardRequest RequestOf(const std::string& model, size_t user, const v1::ModelInfo& info) {
  v1::ForwardRequest request;
  request.set_model(model);
  request.add_prompts()->set_text(kPrompt);
  v1::Intervention* edit = request.add_interventions();
  const size_t layer = user % info.layers();
  const char* const sites[] = {".hook_resid_mid", ".hook_mlp_out", ".attn.hook_z", ".hook_resid_pre"};
  edit->mutable_select()->add_sites("blocks." + std::to_string(layer) + sites[user % 4]);
  edit->mutable_select()->mutable_positions()->add_items()->set_index(static_cast<int32_t>(user % 13));
  if (user % 4 == 0) {
    std::vector<float> direction(info.d_model());
    for (size_t i = 0; i < direction.size(); ++i) direction[i] = 0.1F * std::sin(static_cast<float>(i * (user + 1)));
    SetTensor(edit->mutable_add()->mutable_value(), direction);
  } else if (user % 4 == 1) {
    edit->mutable_zero();
  } else {
    edit->mutable_scale()->set_factor(0.5 + 0.01 * static_cast<double>(user));
  }
  v1::Metric* metric = request.add_metrics();
  metric->set_name("Mary - John");
  metric->mutable_logit_difference()->add_right()->set_text(" Mary");
  metric->mutable_logit_difference()->add_wrong()->set_text(" John");
  request.mutable_logits()->set_top_k(5);
  return request;
}

}  // namespace fluoroscope::bench
