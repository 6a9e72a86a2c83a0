// Rows of one request that run in one batch, each with interventions of its own, asked for by a C++ client:
//   bench_one_batch TARGET MODEL ROUNDS
// Prints one line for each measurement, its name and then its values in milliseconds. Those of one pair take turns.
//   one_by_one  64 requests one after the other, each with an intervention of its own on the same 14-token prompt
//   one_batch   one request with 64 rows of that prompt, each with the same intervention as its request before: 896 lines
//   none        64 rows of 14 tokens: the time that the server says it ran on the device
//   edits       the same with four vectors of its own added to each row at one site, 256 edits
// and, without times, "batches" and how many requests with 64 rows it has sent.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/user_request.h"
#include "client/client.h"

namespace fs = fluoroscope::client;
namespace v1 = fluoroscope::v1;

namespace {

using namespace fluoroscope::bench;  // NOLINT(google-build-using-namespace): a program of its own

constexpr uint32_t kRows = 64;
constexpr int kTokens = 14, kEditsPerRow = 4;

// The requests of 64 users as one.
v1::ForwardRequest AllRows(const std::vector<v1::ForwardRequest>& requests) {
  v1::ForwardRequest all = requests.front();
  all.clear_prompts();
  all.clear_interventions();
  for (uint32_t row = 0; row < kRows; ++row) {
    *all.add_prompts() = requests[row].prompts(0);
    v1::Intervention* edit = all.add_interventions();
    *edit = requests[row].interventions(0);
    edit->mutable_select()->add_rows(row);
  }
  return all;
}

// Returns how many requests with 64 rows were sent.
int DifferentInterventions(const fs::Client& client, const std::string& model, const v1::ModelInfo& info, int rounds) {
  std::vector<v1::ForwardRequest> requests;
  for (uint32_t row = 0; row < kRows; ++row) requests.push_back(RequestOf(model, row, info));
  const v1::ForwardRequest all = AllRows(requests);
  std::vector<double> apart, one_batch;
  for (int round = 0; round <= rounds; ++round) {
    std::vector<double> alone;
    Clock::time_point start = Clock::now();
    for (const v1::ForwardRequest& request : requests) alone.push_back(Must(client.Forward(request)).summary.metrics(0).value());
    const double one_by_one = MillisecondsSince(start);
    start = Clock::now();
    const fs::ForwardResult together = Must(client.Forward(all));
    const double at_once = MillisecondsSince(start);
    // A fast wrong answer does not count.
    for (const v1::MetricValue& metric : together.summary.metrics())
      if (std::abs(metric.value() - alone[metric.row()]) > 1e-3) {
        std::fprintf(stderr, "row %u got %f, alone %f\n", metric.row(), metric.value(), alone[metric.row()]);
        std::exit(1);
      }
    if (together.summary.metrics_size() != static_cast<int>(kRows)) std::exit(1);
    if (round == 0) continue;  // warm-up
    apart.push_back(one_by_one);
    one_batch.push_back(at_once);
  }
  Print("one_by_one", apart);
  Print("one_batch", one_batch);
  return rounds + 1;
}

v1::ForwardRequest PlainRows(const std::string& model) {
  v1::ForwardRequest request;
  request.set_model(model);
  for (uint32_t row = 0; row < kRows; ++row) {
    v1::TokenIds* tokens = request.add_prompts()->mutable_tokens();
    for (uint32_t i = 0; i < kTokens; ++i) tokens->add_ids((7 * row + 13 * i) % 40000);
  }
  request.mutable_logits()->set_top_k(1);
  return request;
}

void AddEdits(v1::ForwardRequest* request, const v1::ModelInfo& info) {
  std::vector<float> direction(info.d_model());
  for (uint32_t row = 0; row < kRows; ++row)
    for (int n = 0; n < kEditsPerRow; ++n) {
      v1::Intervention* edit = request->add_interventions();
      edit->mutable_select()->add_sites("blocks." + std::to_string(info.layers() / 2) + ".hook_resid_mid");
      edit->mutable_select()->add_rows(row);
      edit->mutable_select()->mutable_positions()->add_items()->set_index(3 * n);
      for (size_t i = 0; i < direction.size(); ++i) direction[i] = 0.1F * std::sin(static_cast<float>(i * (kEditsPerRow * row + n + 1)));
      SetTensor(edit->mutable_add()->mutable_value(), direction);
    }
}

int FourEditsEach(const fs::Client& client, const std::string& model, const v1::ModelInfo& info, int rounds) {
  const v1::ForwardRequest without = PlainRows(model);
  v1::ForwardRequest with = without;
  AddEdits(&with, info);
  std::vector<double> none, edits;
  for (int round = 0; round <= rounds; ++round) {
    const double plain = Must(client.Forward(without)).summary.run_ms(), edited = Must(client.Forward(with)).summary.run_ms();
    if (round == 0) continue;  // warm-up
    none.push_back(plain);
    edits.push_back(edited);
  }
  Print("none", none);
  Print("edits", edits);
  return 2 * (rounds + 1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: %s HOST:PORT MODEL ROUNDS\n", argv[0]), 2;
  const std::string target = argv[1], model = argv[2];
  const int rounds = std::max(1, std::atoi(argv[3]));
  const fs::Client client = Must(fs::Client::Connect(target));
  const v1::ModelInfo info = Must(client.GetModel(model)).info();
  int sent = DifferentInterventions(client, model, info, rounds);
  sent += FourEditsEach(client, model, info, 2 * rounds);
  std::printf("batches %d\n", sent);
}
