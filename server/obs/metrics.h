// The server's Prometheus metrics: one method per thing that is measured, so that label sets stay closed and names stay in one file.
// Free of protobuf and LibTorch. Every method is safe from any thread and does not block for long.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace fluoroscope::obs {

// Why a call was turned away; label `reason` of fluoroscope_rejections_total.
enum class Rejection { kQueueFull, kOverBudget, kDraining, kInvalid, kDeadline, kCancelled, kOutOfMemory, kPrincipalLimit };

// Owns the registry. Created by main, outlives everything that reports to it.
class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // The text exposition of all metrics, process_* included (read from /proc when asked).
  std::string Serialize() const;

  // rpc/. `method` is "Inference.Forward"; `code` a canonical gRPC code name such as "OK".
  void RpcStarted(std::string_view method);
  void RpcFinished(std::string_view method, std::string_view code, double seconds, uint64_t reply_bytes);

  // sched/
  void SetQueueDepth(size_t waiting);
  void ObserveQueueWait(double seconds);
  void AddExecutorBusy(double seconds);
  void SetExecutorStuck(bool stuck);
  void SetAdmittedBytes(uint64_t bytes);
  void SetBudgetBytes(uint64_t bytes);
  void CountRejection(Rejection reason);

  // jobs/. `state` is "queued", "running", "done", "failed" or "cancelled".
  void SetJobs(std::string_view state, size_t jobs);

  // engine/
  // `requests`: how many have rows in the batch.
  void ObserveBatch(const std::string& model, size_t requests, size_t rows, size_t tokens);
  void AddCapturedBytes(uint64_t bytes);
  void SetModelLoaded(const std::string& model, const std::string& weights_sha256, uint64_t weight_bytes, double load_seconds);
  // The model is gone: its values of the two gauges above and of the identities below are removed. They must not be set at the same time.
  void ForgetModel(const std::string& model, const std::string& weights_sha256);
  // What the weights of all models hold, those that are loading or unloaded and still in use included, and what they may.
  void SetWeightsMemory(uint64_t held_bytes, uint64_t budget_bytes);
  void SetIdentityError(const std::string& model, const std::string& identity, double relative_error);
  // Of the leased handles: how many there are, what all of them and their uploads hold, and that some have outlived their time.
  void SetHandles(size_t count, uint64_t bytes);
  void CountExpiredHandles(size_t count);
  // Of generations: prompt tokens that were not run because their keys and values were known, and what is kept for that.
  void AddReusedTokens(const std::string& model, uint64_t tokens);
  void SetPrefixCacheBytes(uint64_t bytes);
  void SetDeviceMemory(const std::string& device, uint64_t allocated_bytes, uint64_t peak_bytes);

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace fluoroscope::obs
