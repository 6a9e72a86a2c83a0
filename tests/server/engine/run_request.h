// Runs a request on a model in memory, without a server: plan, step, collect.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "api/plan.h"
#include "api/results.h"
#include "engine/loaded_model.h"

namespace fluoroscope::engine {

// Everything a run sent.
class CollectingSink final : public api::ForwardSink {
 public:
  bool Push(api::ForwardPart part) override;
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status status) override { this->status = std::move(status); }

  // The tensor of this name, row and part; fails the test when there is not exactly one.
  at::Tensor Get(const std::string& name, uint32_t row = 0, const std::string& part = "") const;

  std::vector<api::NamedTensor> tensors;
  api::ForwardSummary summary;
  absl::Status status = absl::UnknownError("not finished");
};

// Plans and runs to the end. The plan's error becomes the sink's status.
std::shared_ptr<CollectingSink> RunRequest(const LoadedModel& model, const api::ForwardRequest& request);

// A model without a tokenizer.
std::unique_ptr<LoadedModel> Offer(std::shared_ptr<const model::Model> model);

// Random token ids.
api::TokenIds RandomIds(int64_t vocabulary, int64_t length);
api::Capture CaptureOf(std::vector<std::string> sites, std::vector<uint32_t> rows = {});

}  // namespace fluoroscope::engine
