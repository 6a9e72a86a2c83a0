#include "tests/server/engine/run_request.h"

#include <gtest/gtest.h>

#include "engine/plan_builder.h"
#include "obs/metrics.h"
#include "run/forward_run.h"
#include "tensor/chunk.h"

namespace fluoroscope::engine {

bool CollectingSink::Push(api::ForwardPart part) {
  if (auto* tensor = std::get_if<api::NamedTensor>(&part)) tensors.push_back(std::move(*tensor));
  if (auto* end = std::get_if<api::ForwardSummary>(&part)) summary = std::move(*end);
  return true;
}

at::Tensor CollectingSink::Get(const std::string& name, uint32_t row, const std::string& part) const {
  at::Tensor found;
  for (const api::NamedTensor& tensor : tensors)
    if (tensor.name == name && tensor.row == row && tensor.part == part) {
      EXPECT_FALSE(found.defined()) << name << " was sent twice";
      found = *tensor::FromChunk(tensor.data);
    }
  EXPECT_TRUE(found.defined()) << name << " of row " << row << " was not sent";
  return found.defined() ? found : at::empty({0});
}

std::shared_ptr<CollectingSink> RunRequest(const LoadedModel& model, const api::ForwardRequest& request) {
  static obs::Metrics metrics;
  auto sink = std::make_shared<CollectingSink>();
  absl::StatusOr<BuiltPlan> built = BuildPlan(model, request, config::Limits());
  if (!built.ok()) {
    sink->status = built.status();
    return sink;
  }
  run::ForwardRun run(std::move(built->plan), {}, sink, metrics);
  while (run.Step() != sched::Work::Progress::kDone) {
  }
  return sink;
}

std::unique_ptr<LoadedModel> Offer(std::shared_ptr<const model::Model> model) {
  auto offered = std::make_unique<LoadedModel>();
  offered->name = "tiny";
  offered->model = std::move(model);
  return offered;
}

api::TokenIds RandomIds(int64_t vocabulary, int64_t length) {
  const at::Tensor ids = at::randint(vocabulary, {length}, at::kLong);
  return {ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + length};
}

api::Capture CaptureOf(std::vector<std::string> sites, std::vector<uint32_t> rows) {
  api::Capture capture;
  capture.select.sites = std::move(sites);
  capture.select.rows = std::move(rows);
  return capture;
}

}  // namespace fluoroscope::engine
