// The services of fluoroscope.v1: for every RPC, decode, hand to the engine, encode.
#pragma once

#include "fluoroscope/v1/attribution.grpc.pb.h"
#include "fluoroscope/v1/inference.grpc.pb.h"
#include "fluoroscope/v1/models.grpc.pb.h"
#include "fluoroscope/v1/patching.grpc.pb.h"
#include "rpc/call.h"

namespace fluoroscope::rpc {

// All methods take and give raw bytes: parsing is ours, so that malformed requests are INVALID_ARGUMENT, and tensors need no copy.
template <typename Service>
using RawModels = fluoroscope::v1::Models::WithRawCallbackMethod_ListModels<
    fluoroscope::v1::Models::WithRawCallbackMethod_GetModel<fluoroscope::v1::Models::WithRawCallbackMethod_ListWeights<
        fluoroscope::v1::Models::WithRawCallbackMethod_ReadWeights<fluoroscope::v1::Models::WithRawCallbackMethod_Tokenize<
            fluoroscope::v1::Models::WithRawCallbackMethod_Detokenize<fluoroscope::v1::Models::WithRawCallbackMethod_LoadModel<
                fluoroscope::v1::Models::WithRawCallbackMethod_UnloadModel<Service>>>>>>>>;

class ModelsService final : public RawModels<fluoroscope::v1::Models::Service> {
 public:
  explicit ModelsService(ServerState& state) : state_(state) {}

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* ListWeights(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* ReadWeights(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;

 private:
  ServerState& state_;
};

template <typename Service>
using RawInference = fluoroscope::v1::Inference::WithRawCallbackMethod_Forward<
    fluoroscope::v1::Inference::WithRawCallbackMethod_Estimate<fluoroscope::v1::Inference::WithRawCallbackMethod_Generate<
        fluoroscope::v1::Inference::WithRawCallbackMethod_EstimateGenerate<Service>>>>;

class InferenceService final : public RawInference<fluoroscope::v1::Inference::Service> {
 public:
  explicit InferenceService(ServerState& state) : state_(state) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Forward(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* Estimate(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* EstimateGenerate(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;

 private:
  ServerState& state_;
};

template <typename Service>
using RawPatching = fluoroscope::v1::Patching::WithRawCallbackMethod_Sweep<
    fluoroscope::v1::Patching::WithRawCallbackMethod_EstimateSweep<fluoroscope::v1::Patching::WithRawCallbackMethod_PathPatch<
        fluoroscope::v1::Patching::WithRawCallbackMethod_EstimatePathPatch<Service>>>>;

class PatchingService final : public RawPatching<fluoroscope::v1::Patching::Service> {
 public:
  explicit PatchingService(ServerState& state) : state_(state) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Sweep(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* EstimateSweep(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* PathPatch(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* EstimatePathPatch(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;

 private:
  ServerState& state_;
};

class AttributionService final
    : public fluoroscope::v1::Attribution::WithRawCallbackMethod_Attribute<
          fluoroscope::v1::Attribution::WithRawCallbackMethod_AttributeEdges<fluoroscope::v1::Attribution::Service>> {
 public:
  explicit AttributionService(ServerState& state) : state_(state) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Attribute(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* AttributeEdges(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;

 private:
  ServerState& state_;
};

}  // namespace fluoroscope::rpc
