#include "rpc/codec_sweep.h"

#include <bit>
#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_forward.h"
#include "rpc/codec_intervention.h"
#include "rpc/codec_metric.h"
#include "rpc/codec_models.h"
#include "rpc/strict.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

constexpr int kMaxSites = 64;
constexpr size_t kMaxGroupName = 256;
constexpr int kMaxReferences = 256;
constexpr uint32_t kMaxChosen = 4096;

absl::StatusOr<api::SweepAxis> DecodeAxis(int axis, const FieldPath& path) {
  switch (axis) {
    case pb::SWEEP_AXIS_SITE:
      return api::SweepAxis::kSite;
    case pb::SWEEP_AXIS_LAYER:
      return api::SweepAxis::kLayer;
    case pb::SWEEP_AXIS_POSITION:
      return api::SweepAxis::kPosition;
    case pb::SWEEP_AXIS_HEAD:
      return api::SweepAxis::kHead;
    case pb::SWEEP_AXIS_UNIT:
      return api::SweepAxis::kUnit;
    case pb::SWEEP_AXIS_SECOND_LAYER:
      return api::SweepAxis::kSecondLayer;
    case pb::SWEEP_AXIS_SECOND_HEAD:
      return api::SweepAxis::kSecondHead;
    default:
      return InvalidAt(path, "is ", axis,
                       ", which is not an axis of sweeps; SITE, LAYER, POSITION, HEAD, UNIT, SECOND_LAYER and SECOND_HEAD are");
  }
}

pb::SweepAxis EncodeAxis(api::SweepAxis axis) {
  switch (axis) {
    case api::SweepAxis::kSite:
      return pb::SWEEP_AXIS_SITE;
    case api::SweepAxis::kLayer:
      return pb::SWEEP_AXIS_LAYER;
    case api::SweepAxis::kPosition:
      return pb::SWEEP_AXIS_POSITION;
    case api::SweepAxis::kHead:
      return pb::SWEEP_AXIS_HEAD;
    case api::SweepAxis::kUnit:
      return pb::SWEEP_AXIS_UNIT;
    case api::SweepAxis::kSecondLayer:
      return pb::SWEEP_AXIS_SECOND_LAYER;
    case api::SweepAxis::kSecondHead:
      return pb::SWEEP_AXIS_SECOND_HEAD;
    case api::SweepAxis::kReceiver:
      return pb::SWEEP_AXIS_RECEIVER;
    case api::SweepAxis::kSender:
      return pb::SWEEP_AXIS_SENDER;
  }
  return pb::SWEEP_AXIS_UNSPECIFIED;
}

api::SweepCell DecodeKind(pb::SweepKind kind) {
  switch (kind) {
    case pb::SWEEP_KIND_ZERO:
      return api::SweepCell::kZero;
    case pb::SWEEP_KIND_MEAN:
      return api::SweepCell::kMean;
    case pb::SWEEP_KIND_RESAMPLE:
      return api::SweepCell::kResample;
    default:
      return api::SweepCell::kPatch;
  }
}

}  // namespace

absl::Status RefuseHandles(const google::protobuf::RepeatedPtrField<pb::SweepPair>& pairs, const char* what, const FieldPath& path) {
  for (int i = 0; i < pairs.size(); ++i)
    if (const FieldPath at{&path, "pairs", i}; pairs[i].source_handles_size() > 0)
      return InvalidAt({&at, "source_handles"}, "is given, and ", what,
                       " runs both prompts; only Patching.Sweep takes values from handles");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<api::SweepPair>> DecodePairs(const google::protobuf::RepeatedPtrField<pb::SweepPair>& pairs,
                                                        const DecodeLimits& limits) {
  const FieldPath root;
  std::vector<api::SweepPair> out;
  if (pairs.empty()) return InvalidAt({&root, "pairs"}, "is empty: give at least one");
  FS_RETURN_IF_ERROR(CheckEntries({&root, "pairs"}, pairs.size(), static_cast<int>(limits.max_prompts)));
  for (int i = 0; i < pairs.size(); ++i) {
    const pb::SweepPair& pair = pairs[i];
    const FieldPath path{&root, "pairs", i};
    const bool given = !pair.source_handles().empty();
    if (!pair.has_clean() && !given) return InvalidAt({&path, "clean"}, "is missing");
    if (!pair.has_corrupt() && !given) return InvalidAt({&path, "corrupt"}, "is missing");
    api::SweepPair decoded;
    if (pair.has_clean()) {
      FS_ASSIGN_OR_RETURN(decoded.clean, DecodePrompt(pair.clean(), {&path, "clean"}));
    }
    if (pair.has_corrupt()) {
      FS_ASSIGN_OR_RETURN(decoded.corrupt, DecodePrompt(pair.corrupt(), {&path, "corrupt"}));
    }
    FS_RETURN_IF_ERROR(CheckEntries({&path, "source_handles"}, pair.source_handles_size()));
    for (int h = 0; h < pair.source_handles_size(); ++h) {
      if (pair.source_handles(h).empty()) return InvalidAt({&path, "source_handles", h}, "is empty: give a handle's id");
      decoded.source_handles.push_back(pair.source_handles(h));
    }
    if (pair.source_positions_size() > 0)
      decoded.source_positions = std::vector<int32_t>(pair.source_positions().begin(), pair.source_positions().end());
    out.push_back(std::move(decoded));
  }
  return out;
}

namespace {

absl::Status DecodeGrid(const pb::SweepRequest& request, api::SweepRequest& out) {
  const FieldPath root;
  if (request.sites().empty()) return InvalidAt({&root, "sites"}, "is empty: name at least one, such as \"hook_resid_pre\"");
  FS_RETURN_IF_ERROR(CheckEntries({&root, "sites"}, request.sites_size(), kMaxSites));
  out.sites.assign(request.sites().begin(), request.sites().end());
  if (request.over().empty()) return InvalidAt({&root, "over"}, "is empty: a sweep goes over at least one axis");
  for (int i = 0; i < request.over_size(); ++i) {
    const FieldPath path{&root, "over", i};
    FS_ASSIGN_OR_RETURN(const api::SweepAxis axis, DecodeAxis(request.over(i), path));
    for (api::SweepAxis other : out.over)
      if (other == axis) return InvalidAt(path, "names an axis for the second time");
    out.over.push_back(axis);
  }
  FS_RETURN_IF_ERROR(CheckEntries({&root, "layers"}, request.layers_size()));
  out.layers.assign(request.layers().begin(), request.layers().end());
  FS_RETURN_IF_ERROR(CheckEntries({&root, "heads"}, request.heads_size()));
  out.heads.assign(request.heads().begin(), request.heads().end());
  FS_RETURN_IF_ERROR(CheckEntries({&root, "second_layers"}, request.second_layers_size()));
  out.second_layers.assign(request.second_layers().begin(), request.second_layers().end());
  FS_RETURN_IF_ERROR(CheckEntries({&root, "second_heads"}, request.second_heads_size()));
  out.second_heads.assign(request.second_heads().begin(), request.second_heads().end());
  FS_RETURN_IF_ERROR(CheckEntries({&root, "units"}, request.units_size()));
  out.units.assign(request.units().begin(), request.units().end());
  out.unit_block = std::max<uint32_t>(1, request.unit_block());
  out.window = std::max<uint32_t>(1, request.window());
  out.window_before = request.window_before();
  if (request.has_positions()) {
    if (!request.groups().empty()) return InvalidAt({&root, "groups"}, "and positions are both given; groups take their place");
    FS_ASSIGN_OR_RETURN(out.positions, DecodePositions(request.positions(), {&root, "positions"}));
  }
  FS_RETURN_IF_ERROR(CheckEntries({&root, "groups"}, request.groups_size()));
  for (int i = 0; i < request.groups_size(); ++i) {
    const pb::PositionGroup& group = request.groups(i);
    const FieldPath path{&root, "groups", i};
    if (group.name().empty() || group.name().size() > kMaxGroupName)
      return InvalidAt({&path, "name"}, "has ", group.name().size(), " bytes; 1 to ", kMaxGroupName, " are allowed");
    if (group.positions_size() != 1 && group.positions_size() != request.pairs_size())
      return InvalidAt({&path, "positions"}, "has ", group.positions_size(),
                       " entries; it needs one for all pairs, or one for each of the ", request.pairs_size());
    api::SweepGroup decoded{group.name(), {}};
    for (int p = 0; p < group.positions_size(); ++p) {
      FS_ASSIGN_OR_RETURN(api::Positions positions, DecodePositions(group.positions(p), {&path, "positions", p}));
      decoded.positions.push_back(std::move(positions));
    }
    out.groups.push_back(std::move(decoded));
  }
  return absl::OkStatus();
}

static_assert(std::endian::native == std::endian::little, "numbers go over the wire as they lie in memory");

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

void Encode(const api::SweepHeader& header, pb::SweepReply& reply) {
  pb::SweepHeader* out = reply.mutable_header();
  EncodeProvenance(header.provenance, out->mutable_provenance());
  for (const api::RowInfo& row : header.clean) EncodeRow(row, out->add_clean());
  for (const api::RowInfo& row : header.corrupt) EncodeRow(row, out->add_corrupt());
  for (const std::string& metric : header.metrics) out->add_metrics(metric);
  for (const api::SweepAxisInfo& axis : header.axes) {
    pb::SweepAxisInfo* info = out->add_axes();
    info->set_axis(EncodeAxis(axis.axis));
    for (const std::string& label : axis.labels) info->add_labels(label);
  }
  *out->mutable_estimate() = EncodeSweepCost(header.cost);
  out->set_convention(header.convention);
}

void Encode(const api::SweepReference& reference, pb::SweepReply& reply) {
  reply.mutable_reference()->set_pair(reference.pair);
  reply.mutable_reference()->set_base(Bytes(reference.base));
  reply.mutable_reference()->set_source(Bytes(reference.source));
}

void Encode(const api::SweepCells& cells, pb::SweepCells& out) {
  out.set_pair(cells.pair);
  out.set_cells(Bytes(cells.cells));
  out.set_values(Bytes(cells.values));
}
void Encode(const api::SweepCells& cells, pb::SweepReply& reply) { Encode(cells, *reply.mutable_cells()); }
void Encode(const api::ExactCells& exact, pb::SweepReply& reply) { Encode(exact.cells, *reply.mutable_exact()); }

void Encode(const api::AttributionCheck& check, pb::SweepReply& reply) {
  pb::AttributionCheck* out = reply.mutable_check();
  for (uint32_t cell : check.cells) out->add_cells(cell);
  for (const api::AttributionCheck::OfMetric& metric : check.metrics) {
    pb::MetricCheck* added = out->add_metrics();
    if (metric.spearman) added->set_spearman(*metric.spearman);
    added->set_precision(metric.precision);
    added->set_top(metric.top);
  }
}

void Encode(const api::PrecisionCheck& check, pb::SweepReply& reply) {
  pb::PrecisionCheck* out = reply.mutable_precision();
  out->mutable_cells()->Assign(check.cells.begin(), check.cells.end());
  out->mutable_largest_difference()->Assign(check.largest_difference.begin(), check.largest_difference.end());
  out->mutable_largest_change()->Assign(check.largest_change.begin(), check.largest_change.end());
  out->set_run_ms(check.run_ms);
}

void Encode(const api::SweepSummary& summary, pb::SweepReply& reply) {
  pb::SweepSummary* out = reply.mutable_summary();
  for (const std::string& warning : summary.warnings) out->add_warnings(warning);
  out->set_queue_ms(summary.queue_ms);
  out->set_run_ms(summary.run_ms);
  out->set_tokens(summary.tokens);
  out->set_peak_bytes(summary.peak_bytes);
}

}  // namespace

absl::StatusOr<std::vector<api::Metric>> DecodeSweepMetrics(const google::protobuf::RepeatedPtrField<pb::Metric>& metrics, size_t pairs) {
  const FieldPath root;
  std::vector<api::Metric> out;
  if (metrics.empty()) return InvalidAt({&root, "metrics"}, "is empty: a cell is what a metric says of it; give at least one");
  FS_RETURN_IF_ERROR(CheckEntries({&root, "metrics"}, metrics.size()));
  for (int i = 0; i < metrics.size(); ++i) {
    FS_ASSIGN_OR_RETURN(api::Metric metric, DecodeMetric(metrics[i], pairs, {&root, "metrics", i}, /*of_pairs=*/true));
    out.push_back(std::move(metric));
  }
  return out;
}

namespace {

absl::StatusOr<std::optional<api::CellChoice>> DecodeFast(const pb::SweepRequest& request) {
  const FieldPath root;
  const FieldPath path{&root, "recheck"};
  if (request.precision() != pb::SWEEP_PRECISION_FAST) {
    if (request.has_recheck()) return InvalidAt(path, "is given, but precision is not FAST: there is nothing to check");
    return std::nullopt;
  }
  if (!request.has_recheck()) return api::CellChoice{10, 10, 0};
  return CheckCellChoice({request.recheck().top(), request.recheck().random(), request.recheck().seed()}, path);
}

}  // namespace

absl::StatusOr<api::CellChoice> CheckCellChoice(const api::CellChoice& choice, const FieldPath& path) {
  if (choice.top == 0 && choice.random == 0) return InvalidAt(path, "has neither top nor random: give one, or leave it away");
  if (choice.top > kMaxChosen) return InvalidAt({&path, "top"}, "is ", choice.top, "; at most ", kMaxChosen, " are allowed");
  if (choice.random > kMaxChosen) return InvalidAt({&path, "random"}, "is ", choice.random, "; at most ", kMaxChosen, " are allowed");
  return choice;
}

absl::StatusOr<api::SweepRequest> DecodeSweep(const pb::SweepRequest& request, const DecodeLimits& limits) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  api::SweepRequest out;
  FS_ASSIGN_OR_RETURN(out.model, DecodeModelName(request.model()));
  FS_ASSIGN_OR_RETURN(out.pairs, DecodePairs(request.pairs(), limits));
  FS_RETURN_IF_ERROR(DecodeGrid(request, out));
  if (request.direction() == pb::SWEEP_DIRECTION_NOISE) out.direction = api::SweepDirection::kNoise;
  const bool noise = out.direction == api::SweepDirection::kNoise;
  for (size_t i = 0; i < out.pairs.size(); ++i)
    if (const FieldPath path{&root, "pairs", static_cast<int>(i)}; !(noise ? out.pairs[i].clean : out.pairs[i].corrupt))
      return InvalidAt({&path, noise ? "clean" : "corrupt"}, "is missing: it is the prompt that is run; handles stand for the other one");
  out.cell = DecodeKind(request.kind());
  FS_RETURN_IF_ERROR(CheckEntries({&root, "references"}, request.references_size(), kMaxReferences));
  for (int i = 0; i < request.references_size(); ++i) {
    FS_ASSIGN_OR_RETURN(api::Prompt prompt, DecodePrompt(request.references(i), {&root, "references", i}));
    out.references.push_back(std::move(prompt));
  }
  out.seed = request.seed();
  FS_ASSIGN_OR_RETURN(out.metrics, DecodeSweepMetrics(request.metrics(), out.pairs.size()));
  FS_RETURN_IF_ERROR(CheckEntries({&root, "corrupt_interventions"}, request.corrupt_interventions_size()));
  for (int i = 0; i < request.corrupt_interventions_size(); ++i) {
    const FieldPath path{&root, "corrupt_interventions", i};
    FS_ASSIGN_OR_RETURN(api::Intervention decoded, DecodeIntervention(request.corrupt_interventions(i), out.pairs.size(), path));
    out.corrupt_interventions.push_back(std::move(decoded));
  }
  FS_ASSIGN_OR_RETURN(out.fast, DecodeFast(request));
  return out;
}

pb::SweepReply EncodeSweepPart(const api::SweepPart& part) {
  pb::SweepReply reply;
  std::visit([&](const auto& p) { Encode(p, reply); }, part);
  return reply;
}

pb::SweepEstimate EncodeSweepCost(const api::SweepCost& cost) {
  pb::SweepEstimate out;
  out.set_cells(cost.cells);
  out.set_filled_cells(cost.filled_cells);
  out.set_flops(cost.flops);
  out.set_forwards_flops(cost.forwards_flops);
  out.set_peak_bytes(cost.peak_bytes);
  out.set_budget_bytes(cost.budget_bytes);
  return out;
}

}  // namespace fluoroscope::rpc
