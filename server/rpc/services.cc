#include "rpc/services.h"

#include <memory>
#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_attribution.h"
#include "rpc/codec_forward.h"
#include "rpc/codec_generate.h"
#include "rpc/codec_models.h"
#include "rpc/codec_path.h"
#include "rpc/codec_sweep.h"
#include "rpc/forward_stream.h"
#include "rpc/stream.h"
#include "rpc/sweep_stream.h"
#include "rpc/unary.h"

namespace fluoroscope::rpc {

namespace pb = ::fluoroscope::v1;
using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

ServerUnaryReactor* ModelsService::ListModels(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::ListModelsRequest, pb::ListModelsReply>(
      state_, *context, "Models.ListModels", *in, out,
      [](const pb::ListModelsRequest& request, engine::Engine& engine, const api::CallContext&, auto done) -> absl::Status {
        FS_RETURN_IF_ERROR(DecodeListModels(request));
        done(EncodeModelList(engine.models().List()));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* ModelsService::LoadModel(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::LoadModelRequest, pb::LoadModelReply>(
      state_, *context, "Models.LoadModel", *in, out,
      [](const pb::LoadModelRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::LoadModelRequest request, DecodeLoadModel(message));
        engine.models().Load(std::move(request), call, Encoded<pb::LoadModelReply, api::LoadModelReply>(std::move(done), EncodeLoaded));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* ModelsService::UnloadModel(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::UnloadModelRequest, pb::UnloadModelReply>(
      state_, *context, "Models.UnloadModel", *in, out,
      [](const pb::UnloadModelRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(std::string name, DecodeUnloadModel(message));
        engine.models().Unload(std::move(name), call,
                               Encoded<pb::UnloadModelReply, api::UnloadModelReply>(std::move(done), EncodeUnloaded));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* ModelsService::GetModel(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::GetModelRequest, pb::GetModelReply>(
      state_, *context, "Models.GetModel", *in, out,
      [](const pb::GetModelRequest& request, engine::Engine& engine, const api::CallContext&, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const std::string name, DecodeGetModel(request));
        FS_ASSIGN_OR_RETURN(const api::ModelDetails details, engine.GetModel(name));
        done(EncodeModelDetails(details));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* ModelsService::ListWeights(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::ListWeightsRequest, pb::ListWeightsReply>(
      state_, *context, "Models.ListWeights", *in, out,
      [](const pb::ListWeightsRequest& request, engine::Engine& engine, const api::CallContext&, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const std::string name, DecodeListWeights(request));
        FS_ASSIGN_OR_RETURN(const std::vector<api::WeightInfo> weights, engine.ListWeights(name));
        done(EncodeWeightList(weights));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<ByteBuffer>* ModelsService::ReadWeights(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::ReadWeightsRequest>(
      state_, *context, "Models.ReadWeights", *in,
      [this](const pb::ReadWeightsRequest& message, engine::Engine& engine, const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::ReadWeightsRequest request, DecodeReadWeights(message));
        auto stream = std::make_shared<ForwardStream>(uint64_t{state_.limits.sink_buffer_mib} * 1024 * 1024, PumpOf(state_, reactor));
        reactor->SetSource(stream);
        engine.ReadWeights(std::move(request), reactor->call().context(), std::move(stream));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* ModelsService::Tokenize(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::TokenizeRequest, pb::TokenizeReply>(
      state_, *context, "Models.Tokenize", *in, out,
      [this](const pb::TokenizeRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(TokenizeRequest request, DecodeTokenize(message, state_.decode));
        engine.Tokenize(request.model, std::move(request.prompts), call,
                        Encoded<pb::TokenizeReply, std::vector<api::RowInfo>>(std::move(done), EncodeTokenized));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* ModelsService::Detokenize(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::DetokenizeRequest, pb::DetokenizeReply>(
      state_, *context, "Models.Detokenize", *in, out,
      [this](const pb::DetokenizeRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(DetokenizeRequest request, DecodeDetokenize(message, state_.decode));
        engine.Detokenize(request.model, std::move(request.rows), request.skip_special_tokens, call,
                          Encoded<pb::DetokenizeReply, std::vector<std::string>>(std::move(done), EncodeDetokenized));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<ByteBuffer>* InferenceService::Forward(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::ForwardRequest>(
      state_, *context, "Inference.Forward", *in,
      [this](const pb::ForwardRequest& message, engine::Engine& engine, const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::ForwardRequest request, DecodeForward(message, state_.decode));
        auto stream = std::make_shared<ForwardStream>(uint64_t{state_.limits.sink_buffer_mib} * 1024 * 1024, PumpOf(state_, reactor));
        reactor->SetSource(stream);
        engine.Forward(std::move(request), reactor->call().context(), std::move(stream));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* InferenceService::Estimate(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::ForwardRequest, pb::EstimateReply>(
      state_, *context, "Inference.Estimate", *in, out,
      [this](const pb::ForwardRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::ForwardRequest request, DecodeForward(message, state_.decode));
        engine.Estimate(std::move(request), call, Encoded<pb::EstimateReply, api::Estimate>(std::move(done), EncodeEstimate));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<ByteBuffer>* InferenceService::Generate(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::GenerateRequest>(
      state_, *context, "Inference.Generate", *in,
      [this](const pb::GenerateRequest& message, engine::Engine& engine, const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::GenerateRequest request, DecodeGenerate(message, state_.decode));
        auto stream = std::make_shared<ForwardStream>(uint64_t{state_.limits.sink_buffer_mib} * 1024 * 1024, PumpOf(state_, reactor));
        reactor->SetSource(stream);
        engine.Generate(std::move(request), reactor->call().context(), std::move(stream));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* InferenceService::EstimateGenerate(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::GenerateRequest, pb::EstimateReply>(
      state_, *context, "Inference.EstimateGenerate", *in, out,
      [this](const pb::GenerateRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::GenerateRequest request, DecodeGenerate(message, state_.decode));
        engine.EstimateGenerate(std::move(request), call, Encoded<pb::EstimateReply, api::Estimate>(std::move(done), EncodeEstimate));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<ByteBuffer>* PatchingService::Sweep(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::SweepRequest>(
      state_, *context, "Patching.Sweep", *in,
      [this](const pb::SweepRequest& message, engine::Engine& engine, const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::SweepRequest request, DecodeSweep(message, state_.decode));
        auto stream = std::make_shared<SweepStream>(PumpOf(state_, reactor));
        reactor->SetSource(stream);
        engine.Sweep(std::move(request), reactor->call().context(), std::move(stream));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<ByteBuffer>* AttributionService::Attribute(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::AttributeRequest>(
      state_, *context, "Attribution.Attribute", *in,
      [this](const pb::AttributeRequest& message, engine::Engine& engine, const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::AttributionRequest request, DecodeAttribute(message, state_.decode));
        auto stream = std::make_shared<SweepStream>(PumpOf(state_, reactor));
        reactor->SetSource(stream);
        engine.Attribute(std::move(request), reactor->call().context(), std::move(stream));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<ByteBuffer>* AttributionService::AttributeEdges(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::AttributeEdgesRequest>(state_, *context, "Attribution.AttributeEdges", *in,
                                                [this](const pb::AttributeEdgesRequest& message, engine::Engine& engine,
                                                       const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
                                                  FS_ASSIGN_OR_RETURN(api::EdgesRequest request,
                                                                      DecodeAttributeEdges(message, state_.decode));
                                                  auto stream = std::make_shared<SweepStream>(PumpOf(state_, reactor));
                                                  reactor->SetSource(stream);
                                                  engine.AttributeEdges(std::move(request), reactor->call().context(), std::move(stream));
                                                  return absl::OkStatus();
                                                });
}

ServerUnaryReactor* PatchingService::EstimateSweep(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::SweepRequest, pb::SweepEstimate>(
      state_, *context, "Patching.EstimateSweep", *in, out,
      [this](const pb::SweepRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::SweepRequest request, DecodeSweep(message, state_.decode));
        engine.EstimateSweep(std::move(request), call, Encoded<pb::SweepEstimate, api::SweepCost>(std::move(done), EncodeSweepCost));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<ByteBuffer>* PatchingService::PathPatch(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::PathPatchRequest>(
      state_, *context, "Patching.PathPatch", *in,
      [this](const pb::PathPatchRequest& message, engine::Engine& engine, const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::PathRequest request, DecodePathPatch(message, state_.decode));
        auto stream = std::make_shared<SweepStream>(PumpOf(state_, reactor));
        reactor->SetSource(stream);
        engine.PathPatch(std::move(request), reactor->call().context(), std::move(stream));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* PatchingService::EstimatePathPatch(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::PathPatchRequest, pb::SweepEstimate>(
      state_, *context, "Patching.EstimatePathPatch", *in, out,
      [this](const pb::PathPatchRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(api::PathRequest request, DecodePathPatch(message, state_.decode));
        engine.EstimatePathPatch(std::move(request), call, Encoded<pb::SweepEstimate, api::SweepCost>(std::move(done), EncodeSweepCost));
        return absl::OkStatus();
      });
}

}  // namespace fluoroscope::rpc
