// Many users of one server, as C++ clients in one process, so that a client costs next to nothing:
//   bench_many_users TARGET MODEL ROUNDS
// Prints one line for each measurement, its name and then its values in milliseconds:
//   together K    K users at once, each with an intervention of its own on the same prompt: until all have their answer
//   apart K       the same requests one after the other; the two take turns
//   idle, beside  latencies of a short request on an idle server, and while another user's sweep runs
#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "bench/user_request.h"
#include "client/client.h"

namespace fs = fluoroscope::client;
namespace v1 = fluoroscope::v1;

namespace {

using namespace fluoroscope::bench;  // NOLINT(google-build-using-namespace): a program of its own

class Users {
 public:
  Users(const std::string& target, const std::string& model, size_t count) : info_(InfoOf(target, model)) {
    for (size_t i = 0; i < count; ++i) {
      clients_.push_back(Must(fs::Client::Connect(target, {.principal = "user-" + std::to_string(i)})));
      requests_.push_back(RequestOf(model, i, info_));
    }
  }

  double Apart() {
    const Clock::time_point start = Clock::now();
    expected_.clear();
    for (size_t i = 0; i < clients_.size(); ++i) expected_.push_back(Ask(i));
    const double time = MillisecondsSince(start);
    return time;
  }

  double Together() {
    std::vector<double> answers(clients_.size());
    Clock::time_point start;
    std::barrier ready(static_cast<std::ptrdiff_t>(clients_.size()), [&]() noexcept { start = Clock::now(); });
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < clients_.size(); ++i)
      threads.emplace_back([&, i] {
        ready.arrive_and_wait();
        answers[i] = Ask(i);
      });
    threads.clear();
    const double time = MillisecondsSince(start);
    // A fast wrong answer does not count.
    for (size_t i = 0; i < clients_.size(); ++i)
      if (std::abs(answers[i] - expected_[i]) > 1e-3) {
        std::fprintf(stderr, "user %zu got %f, alone %f\n", i, answers[i], expected_[i]);
        std::exit(1);
      }
    return time;
  }

  const v1::ModelInfo& info() const { return info_; }

 private:
  static v1::ModelInfo InfoOf(const std::string& target, const std::string& model) {
    return Must(Must(fs::Client::Connect(target)).GetModel(model)).info();
  }
  double Ask(size_t user) const { return Must(clients_[user].Forward(requests_[user])).summary.metrics(0).value(); }

  const v1::ModelInfo info_;
  std::vector<fs::Client> clients_;
  std::vector<v1::ForwardRequest> requests_;
  std::vector<double> expected_;
};

void ManyAtOnce(const std::string& target, const std::string& model, int rounds) {
  for (const size_t count : {1, 4, 16, 32, 64}) {
    Users users(target, model, count);
    std::vector<double> apart, together;
    for (int round = 0; round <= rounds; ++round) {
      const double one_by_one = users.Apart(), at_once = users.Together();
      if (round == 0) continue;  // warm-up
      apart.push_back(one_by_one);
      together.push_back(at_once);
    }
    Print("apart " + std::to_string(count), apart);
    Print("together " + std::to_string(count), together);
  }
}

std::vector<double> Latencies(const fs::Client& client, const v1::ForwardRequest& request, int count) {
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    const Clock::time_point start = Clock::now();
    (void)Must(client.Forward(request));
    times.push_back(MillisecondsSince(start));
  }
  return times;
}

void BesideASweep(const std::string& target, const std::string& model, const v1::ModelInfo& info, int rounds) {
  const fs::Client user = Must(fs::Client::Connect(target, {.principal = "short"}));
  const fs::Client other = Must(fs::Client::Connect(target, {.principal = "sweeper"}));
  v1::ForwardRequest request = RequestOf(model, 1, info);
  v1::SweepRequest sweep;
  sweep.set_model(model);
  v1::SweepPair* pair = sweep.add_pairs();
  v1::TokenizeRequest words;
  words.set_model(model);
  words.add_prompts()->set_text(kPrompt);
  const auto ids = Must(user.Tokenize(words)).rows(0).token_ids();
  for (int i = 0; i < ids.size(); ++i) {
    pair->mutable_clean()->mutable_tokens()->add_ids(ids[i]);
    pair->mutable_corrupt()->mutable_tokens()->add_ids(ids[ids.size() - 1 - i]);  // another token nearly everywhere
  }
  sweep.add_sites("hook_resid_pre");
  sweep.add_over(v1::SWEEP_AXIS_LAYER);
  sweep.add_over(v1::SWEEP_AXIS_POSITION);
  *sweep.add_metrics() = request.metrics(0);
  Print("idle", Latencies(user, request, 15 * rounds));
  std::atomic<bool> running = true;
  std::atomic<int> sweeps = 0;
  std::jthread sweeper([&] {
    for (; running; ++sweeps) (void)Must(other.Sweep(sweep));
  });
  Print("beside", Latencies(user, request, 15 * rounds));
  running = false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: %s HOST:PORT MODEL ROUNDS\n", argv[0]), 2;
  const std::string target = argv[1], model = argv[2];
  const int rounds = std::max(1, std::atoi(argv[3]));
  const fs::Client client = Must(fs::Client::Connect(target));
  const v1::ModelInfo info = Must(client.GetModel(model)).info();
  ManyAtOnce(target, model, rounds);
  BesideASweep(target, model, info, rounds);
}
