// Which models a server has, and loading and unloading them: the interface behind proto/fluoroscope/v1/models.proto, which documents
// meaning and errors.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/call.h"
#include "api/results.h"

namespace fluoroscope::api {

enum class ModelState { kAvailable, kLoading, kUnloading };

struct UnloadedModel {
  std::string name;
  ModelState state = ModelState::kAvailable;
  uint64_t loaded_bytes = 0, total_bytes = 0;
};

struct ModelList {
  std::vector<ModelInfo> loaded;
  std::vector<UnloadedModel> others;
  uint64_t weights_bytes = 0, weights_budget_bytes = 0;
};

struct LoadModelRequest {
  std::string name;
  std::string dtype;  // "", "f32", "bf16", "f16"
};

struct LoadModelReply {
  ModelInfo info;
  bool was_loaded = false;
};

struct UnloadModelReply {
  bool still_in_use = false;
};

// Every method may be called from any thread and returns at once; `done` is called on one of the engine's threads, exactly once.
class Models {
 public:
  template <typename T>
  using Callback = std::function<void(absl::StatusOr<T>)>;

  virtual ~Models() = default;

  virtual ModelList List() const = 0;

  // Whether the model can be used; nullopt for a name that is not known.
  virtual std::optional<bool> Serving(const std::string& name) const = 0;
  // To be called whenever Serving may say something else; replaces the last one. Must not call back into Models but for Serving.
  virtual void OnChange(std::function<void()> changed) = 0;

  virtual void Load(LoadModelRequest request, CallContext call, Callback<LoadModelReply> done) = 0;
  virtual void Unload(std::string name, CallContext call, Callback<UnloadModelReply> done) = 0;
};

}  // namespace fluoroscope::api
