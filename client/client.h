// A connection to a Fluoroscope server.
//
//   auto client = fluoroscope::client::Client::Connect("localhost:7070");
//   fluoroscope::v1::ForwardRequest request;
//   request.set_model("smollm2-135m");
//   request.add_prompts()->set_text("The capital of France is");
//   request.add_captures()->mutable_select()->add_sites("blocks.*.hook_resid_pre");
//   auto result = client->Forward(request);
//   const Tensor* resid = result->Find("blocks.5.hook_resid_pre");   // shape [positions, d_model]
//
//   fluoroscope::v1::SweepRequest grid;                              // pairs, sites, over, metrics
//   auto sweep = client->Sweep(grid);
//   sweep->Normalized();                                             // one number per cell: 0 is the base run, 1 the source run
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/assembler.h"
#include "client/sweep_result.h"
#include "fluoroscope/v1/inference.grpc.pb.h"
#include "fluoroscope/v1/jobs.grpc.pb.h"
#include "fluoroscope/v1/models.grpc.pb.h"
#include "fluoroscope/v1/patching.grpc.pb.h"
#include "fluoroscope/v1/server.grpc.pb.h"

namespace fluoroscope::client {

struct Options {
  std::chrono::milliseconds connect_timeout{10000};
  std::chrono::milliseconds call_timeout{0};  // 0: no deadline
  // By this the server shares itself out fairly between its callers, and jobs belong to it: 1 to 128 of [A-Za-z0-9._-]. Empty: a random
  // name for each Client.
  std::string principal;
  bool batch = false;  // calls let other callers' interactive ones go first: for long jobs that nobody waits for
};

// Every method blocks, and may be called from any thread, many at once. Copies share the connection. Errors are the server's own code and
// message; UNAVAILABLE when no server answers, DEADLINE_EXCEEDED, and DATA_LOSS when a reply did not arrive as it was sent.
//
// Results that are dropped leave up to 512 MiB behind for the next (see Arena), and Forward makes glibc keep some freed memory (see
// KeepFreedBuffers).
class Client {
 public:
  // Waits until a server answers at `target` ("host:port", "unix:/path").
  static absl::StatusOr<Client> Connect(const std::string& target, Options options = {});

  absl::StatusOr<std::vector<v1::ModelInfo>> ListModels() const;
  // The same with those that are not loaded, and what weights hold of the memory for them.
  absl::StatusOr<v1::ListModelsReply> ListAllModels() const;
  // Waits until the model can be used. When a call timeout ends the waiting, it ends the load too, unless another caller waits for it.
  // `dtype`: "f32", "bf16", "f16", or empty for the model's own.
  absl::StatusOr<v1::LoadModelReply> LoadModel(const std::string& model, const std::string& dtype = "") const;
  absl::StatusOr<v1::UnloadModelReply> UnloadModel(const std::string& model) const;
  absl::StatusOr<v1::GetModelReply> GetModel(const std::string& model) const;
  absl::StatusOr<v1::TokenizeReply> Tokenize(const v1::TokenizeRequest& request) const;
  absl::StatusOr<v1::DetokenizeReply> Detokenize(const v1::DetokenizeRequest& request) const;

  // Runs prompts; the tensors' bytes go straight from the wire to where they stay.
  absl::StatusOr<ForwardResult> Forward(const v1::ForwardRequest& request) const;
  absl::StatusOr<v1::EstimateReply> Estimate(const v1::ForwardRequest& request) const;

  // Lets prompts go on. `on_token` is called on the calling thread, with each token as it arrives; what was captured is in the result,
  // where tensors of generated tokens say their sample in the header.
  using OnToken = std::function<void(const v1::GeneratedToken& token)>;
  absl::StatusOr<ForwardResult> Generate(const v1::GenerateRequest& request, const OnToken& on_token) const;

  // A whole grid of patches as one request. `progress` is called on the calling thread, as cells arrive: how many have, and how many there
  // are.
  using SweepProgress = std::function<void(size_t done, size_t total)>;
  absl::StatusOr<SweepResult> Sweep(const v1::SweepRequest& request, const SweepProgress& progress = {}) const;
  absl::StatusOr<v1::SweepEstimate> EstimateSweep(const v1::SweepRequest& request) const;
  // Path patching (path.proto): a sweep's result over receivers and senders.
  absl::StatusOr<SweepResult> PathPatch(const v1::PathPatchRequest& request, const SweepProgress& progress = {}) const;
  absl::StatusOr<v1::SweepEstimate> EstimatePathPatch(const v1::PathPatchRequest& request) const;

  // What the server is doing.
  absl::StatusOr<v1::ServerStatus> GetStatus() const;
  // Sweeps and path patching that outlive their call (jobs.proto). They belong to Options::principal: give a name of your own to find them
  // again.
  absl::StatusOr<v1::Job> SubmitJob(const v1::SubmitJobRequest& request) const;
  absl::StatusOr<v1::GetJobReply> GetJob(const std::string& id) const;
  absl::StatusOr<std::vector<v1::Job>> ListJobs() const;  // newest first
  // Waits for the end, unless a call timeout says otherwise; the job goes on in any case.
  absl::StatusOr<SweepResult> WatchJob(const std::string& id, const SweepProgress& progress = {}) const;
  absl::StatusOr<v1::Job> CancelJob(const std::string& id) const;
  absl::Status DeleteJob(const std::string& id) const;

 private:
  Client(std::shared_ptr<grpc::Channel> channel, Options options);

  std::unique_ptr<grpc::ClientContext> NewContext() const;

  std::shared_ptr<grpc::Channel> channel_;
  std::shared_ptr<v1::Models::Stub> models_;
  std::shared_ptr<v1::Inference::Stub> inference_;
  std::shared_ptr<v1::Patching::Stub> patching_;
  std::shared_ptr<v1::Server::Stub> server_;
  std::shared_ptr<v1::Jobs::Stub> jobs_;
  Options options_;
};

}  // namespace fluoroscope::client
