#include "rpc/codec_attribution.h"

#include "base/status_macros.h"
#include "rpc/codec_path.h"
#include "rpc/codec_sweep.h"
#include "rpc/strict.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

constexpr uint32_t kMaxSteps = 256;

absl::Status CheckSteps(uint32_t steps) {
  const FieldPath root;
  if (steps > kMaxSteps) return InvalidAt({&root, "steps"}, "is ", steps, "; 1 to ", kMaxSteps, " are allowed");
  return absl::OkStatus();
}

api::AttributionMethod DecodeMethod(pb::AttributionMethod method) {
  switch (method) {
    case pb::ATTRIBUTION_METHOD_GRADIENT_TIMES_INPUT:
      return api::AttributionMethod::kGradientTimesInput;
    case pb::ATTRIBUTION_METHOD_INTEGRATED_GRADIENTS:
      return api::AttributionMethod::kIntegratedGradients;
    case pb::ATTRIBUTION_METHOD_QK_FIX:
      return api::AttributionMethod::kQkFix;
    case pb::ATTRIBUTION_METHOD_ATP_STAR:
      return api::AttributionMethod::kAtpStar;
    case pb::ATTRIBUTION_METHOD_INTEGRATED_GRADIENTS_ACTIVATIONS:
      return api::AttributionMethod::kIntegratedActivations;
    default:
      return api::AttributionMethod::kAttributionPatching;  // absent; the strict check refused 0
  }
}

api::EdgeMethod DecodeMethod(pb::EdgeMethod method) {
  switch (method) {
    case pb::EDGE_METHOD_EAP_IG:
      return api::EdgeMethod::kEapIg;
    case pb::EDGE_METHOD_EAP_IG_ACTIVATIONS:
      return api::EdgeMethod::kEapIgActivations;
    default:
      return api::EdgeMethod::kEap;
  }
}

// Of either request; none when it is absent.
template <typename Request>
absl::StatusOr<api::CellChoice> DecodeVerify(const Request& request) {
  if (!request.has_verify()) return api::CellChoice();
  const FieldPath root, at{&root, "verify"};
  const pb::AttributionVerify& verify = request.verify();
  return CheckCellChoice({verify.top(), verify.random(), verify.seed()}, at);
}

}  // namespace

absl::StatusOr<api::AttributionRequest> DecodeAttribute(const pb::AttributeRequest& request, const DecodeLimits& limits) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  api::AttributionRequest out;
  if (!request.has_grid()) return InvalidAt({&root, "grid"}, "is missing: it says which nodes get scores");
  const FieldPath grid{&root, "grid"};
  FS_RETURN_IF_ERROR(RefuseHandles(request.grid().pairs(), "an attribution", grid));
  FS_ASSIGN_OR_RETURN(out.grid, DecodeSweep(request.grid(), limits));
  out.method = DecodeMethod(request.method());
  FS_RETURN_IF_ERROR(CheckSteps(request.steps()));
  if (request.steps() > 0) out.steps = request.steps();
  FS_ASSIGN_OR_RETURN(out.verify, DecodeVerify(request));
  return out;
}

absl::StatusOr<api::EdgesRequest> DecodeAttributeEdges(const pb::AttributeEdgesRequest& request, const DecodeLimits& limits) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  api::EdgesRequest out;
  if (!request.has_paths()) return InvalidAt({&root, "paths"}, "is missing: it says which edges get scores");
  FS_ASSIGN_OR_RETURN(out.paths, DecodePathPatch(request.paths(), limits));
  out.method = DecodeMethod(request.method());
  FS_RETURN_IF_ERROR(CheckSteps(request.steps()));
  if (request.steps() > 0) out.steps = request.steps();
  FS_ASSIGN_OR_RETURN(out.verify, DecodeVerify(request));
  return out;
}

}  // namespace fluoroscope::rpc
