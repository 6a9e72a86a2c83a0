// patch HOST:PORT MODEL: activation patching in C++. Runs a clean and a corrupted prompt in one request, and the corrupted one again for
// each layer with the clean residual put in where the prompts differ. Prints how much of the answer that brings back.
#include <cmath>
#include <cstdio>
#include <string>

#include "client/client.h"

namespace fs = fluoroscope::client;
namespace v1 = fluoroscope::v1;

namespace {

const std::string kClean = "When John and Mary went to the shops, John gave the bag to";
const std::string kCorrupted = "When John and Mary went to the shops, Mary gave the bag to";
constexpr int kPosition = 9;  // the second name

// Row 0: clean. Row 1: corrupted. Row 2 + l: corrupted, with row 0's residual before layer l at kPosition.
v1::ForwardRequest Request(const std::string& model, uint32_t layers) {
  v1::ForwardRequest request;
  request.set_model(model);
  request.add_prompts()->set_text(kClean);
  request.add_prompts()->set_text(kCorrupted);
  for (uint32_t layer = 0; layer < layers; ++layer) {
    request.add_prompts()->set_text(kCorrupted);
    v1::Intervention* patch = request.add_interventions();
    patch->mutable_select()->add_sites("blocks." + std::to_string(layer) + ".hook_resid_pre");
    patch->mutable_select()->add_rows(2 + layer);
    patch->mutable_select()->mutable_positions()->add_items()->set_index(kPosition);
    patch->mutable_copy()->set_row(0);
  }
  v1::Metric* metric = request.add_metrics();
  metric->set_name("Mary - John");
  metric->mutable_logit_difference()->add_right()->set_text(" Mary");
  metric->mutable_logit_difference()->add_wrong()->set_text(" John");
  v1::Capture* capture = request.add_captures();  // the clean run's residual stream, all layers and positions
  capture->mutable_select()->add_sites("blocks.*.hook_resid_pre");
  capture->mutable_select()->add_rows(0);
  return request;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s HOST:PORT MODEL\n", argv[0]), 2;
  auto client = fs::Client::Connect(argv[1]);
  if (!client.ok()) return Fail(client.status());
  auto model = client->GetModel(argv[2]);
  if (!model.ok()) return Fail(model.status());
  const uint32_t layers = model->info().layers();
  auto result = client->Forward(Request(argv[2], layers));
  if (!result.ok()) return Fail(result.status());

  for (const v1::MetricValue& metric : result->summary.metrics()) {
    const std::string row = metric.row() == 0 ? "clean" : metric.row() == 1 ? "corrupted" : "layer " + std::to_string(metric.row() - 2);
    std::printf("%-10s %s %7.3f\n", row.c_str(), metric.name().c_str(), metric.value());
  }
  const std::string last = "blocks." + std::to_string(layers - 1) + ".hook_resid_pre";
  const fs::Tensor* resid = result->Find(last);
  if (resid == nullptr) return Fail(absl::InternalError("no " + last + " in the reply"));
  auto values = resid->ToFloats();
  if (!values.ok()) return Fail(values.status());
  double squares = 0;
  for (size_t i = values->size() - resid->shape.back(); i < values->size(); ++i) squares += (*values)[i] * (*values)[i];
  std::printf("%s [%ld, %ld], norm at the last position %.3f\n", last.c_str(), long{resid->shape[0]}, long{resid->shape[1]},
              std::sqrt(squares));
}
