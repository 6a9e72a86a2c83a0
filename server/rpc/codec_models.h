// Requests and replies of the Models service.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/models.h"
#include "api/plan.h"
#include "api/results.h"
#include "api/weights.h"
#include "fluoroscope/v1/models.pb.h"
#include "rpc/codec_plan.h"

namespace fluoroscope::rpc {

// The `model` field of any request: present and short. Whether there is such a model is engine/'s to say.
absl::StatusOr<std::string> DecodeModelName(const std::string& name);

struct TokenizeRequest {
  std::string model;
  std::vector<api::Prompt> prompts;
};
struct DetokenizeRequest {
  std::string model;
  std::vector<api::TokenIds> rows;
  bool skip_special_tokens = false;
};

// Strict checks included.
absl::Status DecodeListModels(const fluoroscope::v1::ListModelsRequest& request);
absl::StatusOr<std::string> DecodeGetModel(const fluoroscope::v1::GetModelRequest& request);
absl::StatusOr<TokenizeRequest> DecodeTokenize(const fluoroscope::v1::TokenizeRequest& request, const DecodeLimits& limits);
absl::StatusOr<DetokenizeRequest> DecodeDetokenize(const fluoroscope::v1::DetokenizeRequest& request, const DecodeLimits& limits);

absl::StatusOr<std::string> DecodeListWeights(const fluoroscope::v1::ListWeightsRequest& request);
absl::StatusOr<api::ReadWeightsRequest> DecodeReadWeights(const fluoroscope::v1::ReadWeightsRequest& request);

absl::StatusOr<api::LoadModelRequest> DecodeLoadModel(const fluoroscope::v1::LoadModelRequest& request);
absl::StatusOr<std::string> DecodeUnloadModel(const fluoroscope::v1::UnloadModelRequest& request);

fluoroscope::v1::ListModelsReply EncodeModelList(const api::ModelList& list);
fluoroscope::v1::LoadModelReply EncodeLoaded(const api::LoadModelReply& loaded);
fluoroscope::v1::UnloadModelReply EncodeUnloaded(const api::UnloadModelReply& unloaded);
fluoroscope::v1::GetModelReply EncodeModelDetails(const api::ModelDetails& details);
fluoroscope::v1::ListWeightsReply EncodeWeightList(const std::vector<api::WeightInfo>& weights);
fluoroscope::v1::TokenizeReply EncodeTokenized(const std::vector<api::RowInfo>& rows);
fluoroscope::v1::DetokenizeReply EncodeDetokenized(const std::vector<std::string>& texts);

}  // namespace fluoroscope::rpc
