// Client's methods for which models there are.
#include "client/client.h"
#include "client/unary_call.h"

namespace fluoroscope::client {

absl::StatusOr<std::vector<v1::ModelInfo>> Client::ListModels() const {
  const absl::StatusOr<v1::ListModelsReply> reply = ListAllModels();
  if (!reply.ok()) return reply.status();
  return std::vector<v1::ModelInfo>(reply->models().begin(), reply->models().end());
}

absl::StatusOr<v1::ListModelsReply> Client::ListAllModels() const {
  return CallUnary(*models_, &v1::Models::Stub::ListModels, *NewContext(), v1::ListModelsRequest());
}

absl::StatusOr<v1::LoadModelReply> Client::LoadModel(const std::string& model, const std::string& dtype) const {
  v1::LoadModelRequest request;
  request.set_model(model);
  request.set_dtype(dtype);
  return CallUnary(*models_, &v1::Models::Stub::LoadModel, *NewContext(), request);
}

absl::StatusOr<v1::UnloadModelReply> Client::UnloadModel(const std::string& model) const {
  v1::UnloadModelRequest request;
  request.set_model(model);
  return CallUnary(*models_, &v1::Models::Stub::UnloadModel, *NewContext(), request);
}

}  // namespace fluoroscope::client
