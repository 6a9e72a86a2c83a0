// What the server adds to a forward pass of one token, and where that pass's time goes:
//   bench_one_token TARGET MODEL DIRECTORY ROUNDS
// The server runs the model, and this process has the same one in memory and computes the same without a server, with as many threads. The
// two take turns, some calls each. Prints one line for each measurement, its name and then its values in milliseconds:
//   server    latency of a request of one token at a C++ client
//   device    the time that the server says it ran on the device, of the same requests
//   bare      the forward pass here: embedding, layers, final norm, unembedding, largest logit
//   products  its matrix products alone, which read all weights once
//   nothing   latency of a request that computes nothing, after a pause as long as a forward pass: its threads have gone to sleep
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "bench/user_request.h"
#include "client/client.h"
#include "model/forward.h"
#include "model/largest.h"
#include "model/model.h"
#include "tensor/compute_threads.h"
#include "tensor/counting_allocator.h"

namespace fs = fluoroscope::client;
namespace v1 = fluoroscope::v1;
namespace model = fluoroscope::model;

namespace {

using namespace fluoroscope::bench;  // NOLINT(google-build-using-namespace): a program of its own

constexpr int kCalls = 20, kDropped = 5;  // a turn, and how many at its start do not count: the other's weights lay in the caches
constexpr int64_t kToken = 1;

class NoHooks final : public model::SiteHooks {
 public:
  bool Wants(model::Site, int64_t) const override { return false; }
  bool Wants(model::Site, int64_t, int64_t) const override { return false; }
  at::Tensor At(model::Site, int64_t, const model::PackedRows&, at::Tensor value) override { return value; }
  at::Tensor AtRow(model::Site, int64_t, const model::RowSpan&, at::Tensor value) override { return value; }
};

int64_t Forward(const model::Model& m) {
  NoHooks hooks;
  model::RowSpan span;
  span.positions = {0};
  const model::PackedRows rows({span});
  const model::Angles angles = model::AnglesOf(m, rows);
  at::Tensor x = model::Embed(m, model::IndexTensor({kToken}, m.device), rows, hooks);
  for (int64_t layer = 0; layer < m.arch.layers; ++layer) {
    x = model::AttentionPart(m, layer, x, rows, rows, angles, hooks);
    x = model::MlpPart(m, layer, x, rows, hooks);
  }
  return model::Largest(model::Unembed(m, model::FinalNorm(m, x, rows, hooks), {}), 1).second.item<int64_t>();
}

void Products(const model::Model& m, const at::Tensor& x, const at::Tensor& z, const at::Tensor& hidden) {
  for (const model::BlockWeights& block : m.weights.blocks) {
    (void)block.qkv.Apply(x);
    (void)block.attn_out.Apply(z);
    (void)block.mlp_in.Apply(x);
    (void)block.mlp_out.Apply(hidden);
  }
  (void)m.weights.unembed.Apply(x);
}

// As long as a token's pass takes on a machine of two cores.
constexpr std::chrono::milliseconds kPause{17};

template <typename Call>
void Turn(std::vector<double>& times, Call call) {
  for (int i = 0; i < kCalls; ++i) {
    const Clock::time_point start = Clock::now();
    call();
    if (i >= kDropped) times.push_back(MillisecondsSince(start));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return std::fprintf(stderr, "usage: %s HOST:PORT MODEL DIRECTORY ROUNDS\n", argv[0]), 2;
  const std::string name = argv[2];
  const int rounds = std::max(1, std::atoi(argv[4]));
  const fs::Client client = Must(fs::Client::Connect(argv[1]));
  v1::ForwardRequest request;
  request.set_model(name);
  request.add_prompts()->mutable_tokens()->add_ids(kToken);
  request.mutable_logits()->set_top_k(1);

  const int threads = static_cast<int>(Must(client.Forward(request)).header.provenance().threads());

  std::vector<double> server, device, bare, products, nothing;
  std::barrier turns(2);
  // Like the server's executor: a thread of its own, placed on a core with its helpers, so that the client's thread is not.
  std::jthread computing([&] {
    const c10::InferenceMode no_gradients;
    fluoroscope::tensor::InstallCountingAllocator();  // the server's, which gives weights their huge pages
    const std::shared_ptr<const model::Model> m = Must(model::Model::Load(argv[3], {}));
    at::set_num_threads(threads);
    fluoroscope::tensor::PlaceComputeThreads();
    const auto line = [&](int64_t size) { return at::ones({1, size}); };
    const model::BlockWeights& block = m->weights.blocks.front();
    const at::Tensor x = line(m->arch.d_model), z = line(block.attn_out.weight.size(1)), hidden = line(block.mlp_out.weight.size(1));
    for (int round = 0; round <= rounds; ++round) {
      turns.arrive_and_wait();
      Turn(bare, [&] { (void)Forward(*m); });
      Turn(products, [&] { Products(*m, x, z, hidden); });
      turns.arrive_and_wait();
      if (round > 0) continue;  // warm-up
      bare.clear();
      products.clear();
    }
  });
  for (int round = 0; round <= rounds; ++round) {
    std::vector<double> ran;
    if (round == 1) server.clear(), device.clear(), nothing.clear();
    Turn(server, [&] { ran.push_back(Must(client.Forward(request)).summary.run_ms()); });
    device.insert(device.end(), ran.begin() + kDropped, ran.end());
    for (int i = 0; i < kCalls; ++i) {
      std::this_thread::sleep_for(kPause);
      const Clock::time_point start = Clock::now();
      (void)Must(client.ListModels());
      nothing.push_back(MillisecondsSince(start));
    }
    turns.arrive_and_wait();
    turns.arrive_and_wait();
  }
  computing.join();
  Print("server", server);
  Print("device", device);
  Print("bare", bare);
  Print("products", products);
  Print("nothing", nothing);
}
