// Client's methods for which models there are.
#include "client/client.h"
#include "client/status.h"

namespace fluoroscope::client {

absl::StatusOr<std::vector<v1::ModelInfo>> Client::ListModels() const {
  const absl::StatusOr<v1::ListModelsReply> reply = ListAllModels();
  if (!reply.ok()) return reply.status();
  return std::vector<v1::ModelInfo>(reply->models().begin(), reply->models().end());
}

absl::StatusOr<v1::ListModelsReply> Client::ListAllModels() const {
  v1::ListModelsReply reply;
  const grpc::Status status = models_->ListModels(NewContext().get(), v1::ListModelsRequest(), &reply);
  if (!status.ok()) return ToAbsl(status);
  return reply;
}

absl::StatusOr<v1::LoadModelReply> Client::LoadModel(const std::string& model, const std::string& dtype) const {
  v1::LoadModelRequest request;
  request.set_model(model);
  request.set_dtype(dtype);
  v1::LoadModelReply reply;
  const grpc::Status status = models_->LoadModel(NewContext().get(), request, &reply);
  if (!status.ok()) return ToAbsl(status);
  return reply;
}

absl::StatusOr<v1::UnloadModelReply> Client::UnloadModel(const std::string& model) const {
  v1::UnloadModelRequest request;
  request.set_model(model);
  v1::UnloadModelReply reply;
  const grpc::Status status = models_->UnloadModel(NewContext().get(), request, &reply);
  if (!status.ok()) return ToAbsl(status);
  return reply;
}

}  // namespace fluoroscope::client
