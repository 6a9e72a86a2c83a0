#include "rpc/codec_path.h"

#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_models.h"
#include "rpc/codec_sweep.h"
#include "rpc/strict.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

constexpr size_t kMaxLabel = 256;

absl::StatusOr<std::vector<api::PathEnd>> DecodeEnds(const google::protobuf::RepeatedPtrField<pb::PathEnd>& ends, size_t pairs,
                                                     const FieldPath& parent, const char* list) {
  if (ends.empty()) return InvalidAt({&parent, list}, "is empty: give at least one");
  FS_RETURN_IF_ERROR(CheckEntries({&parent, list}, ends.size()));
  std::vector<api::PathEnd> out;
  for (int i = 0; i < ends.size(); ++i) {
    const FieldPath path{&parent, list, i};
    if (ends[i].label().size() > kMaxLabel) return InvalidAt({&path, "label"}, "is longer than ", kMaxLabel, " bytes");
    if (ends[i].nodes().empty()) return InvalidAt({&path, "nodes"}, "is empty: name at least one part of the model");
    FS_RETURN_IF_ERROR(CheckEntries({&path, "nodes"}, ends[i].nodes_size()));
    api::PathEnd end{ends[i].label(), {}, {}};
    for (int n = 0; n < ends[i].nodes_size(); ++n) {
      const pb::PathNode& node = ends[i].nodes(n);
      const FieldPath here{&path, "nodes", n};
      if (node.site().empty() || node.site().size() > kMaxNameBytes)
        return InvalidAt({&here, "site"}, "has ", node.site().size(), " bytes; 1 to ", kMaxNameBytes, " are allowed");
      FS_RETURN_IF_ERROR(CheckEntries({&here, "heads"}, node.heads_size()));
      end.nodes.push_back({node.site(), {node.heads().begin(), node.heads().end()}});
    }
    const size_t positions = static_cast<size_t>(ends[i].positions_size());
    if (positions > 1 && positions != pairs)
      return InvalidAt({&path, "positions"}, "has ", positions,
                       " entries; it needs none (all positions), one for all pairs, or one for each of the ", pairs);
    for (int p = 0; p < ends[i].positions_size(); ++p) {
      FS_ASSIGN_OR_RETURN(api::Positions chosen, DecodePositions(ends[i].positions(p), {&path, "positions", p}));
      end.positions.push_back(std::move(chosen));
    }
    out.push_back(std::move(end));
  }
  return out;
}

}  // namespace

absl::StatusOr<api::PathRequest> DecodePathPatch(const pb::PathPatchRequest& request, const DecodeLimits& limits) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  api::PathRequest out;
  FS_ASSIGN_OR_RETURN(out.model, DecodeModelName(request.model()));
  FS_RETURN_IF_ERROR(RefuseHandles(request.pairs(), "path patching", root));
  FS_ASSIGN_OR_RETURN(out.pairs, DecodePairs(request.pairs(), limits));
  if (request.direction() == pb::SWEEP_DIRECTION_DENOISE) out.direction = api::SweepDirection::kDenoise;
  FS_ASSIGN_OR_RETURN(out.senders, DecodeEnds(request.senders(), out.pairs.size(), root, "senders"));
  FS_ASSIGN_OR_RETURN(out.receivers, DecodeEnds(request.receivers(), out.pairs.size(), root, "receivers"));
  out.freeze_mlps = request.freeze_mlps();
  out.freeze_norms = request.freeze_norms();
  FS_ASSIGN_OR_RETURN(out.metrics, DecodeSweepMetrics(request.metrics(), out.pairs.size()));
  return out;
}

}  // namespace fluoroscope::rpc
