#include "rpc/codec_forward.h"

#include <unordered_set>
#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_intervention.h"
#include "rpc/codec_metric.h"
#include "rpc/codec_models.h"
#include "rpc/strict.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

absl::StatusOr<api::LogitsRequest> DecodeLogits(const pb::LogitsRequest& logits, size_t prompts) {
  const FieldPath root;
  const FieldPath path{&root, "logits"};
  api::LogitsRequest out;
  if (logits.has_positions()) {
    FS_ASSIGN_OR_RETURN(out.positions, DecodePositions(logits.positions(), {&path, "positions"}));
  }
  FS_ASSIGN_OR_RETURN(out.tokens, DecodeTokenRefs(logits.tokens(), path, "tokens"));
  out.top_k = logits.top_k();
  if (out.top_k > 0 && !out.tokens.empty()) return InvalidAt(path, "has tokens and top_k; only one of them can be given");
  FS_ASSIGN_OR_RETURN(out.rows, DecodeRows(logits.rows(), prompts, path));
  return out;
}

absl::Status DecodeMetrics(const pb::ForwardRequest& request, api::ForwardRequest& out) {
  const FieldPath root;
  std::unordered_set<std::string> names;
  for (int i = 0; i < request.metrics_size(); ++i) {
    const FieldPath path{&root, "metrics", i};
    FS_ASSIGN_OR_RETURN(api::Metric metric, DecodeMetric(request.metrics(i), out.prompts.size(), path));
    if (!names.insert(metric.name).second)
      return InvalidAt({&path, "name"}, "is \"", metric.name, "\", which an earlier metric has already");
    out.metrics.push_back(std::move(metric));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<api::ForwardRequest> DecodeForward(const pb::ForwardRequest& request, const DecodeLimits& limits) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  const FieldPath root;
  FS_RETURN_IF_ERROR(CheckEntries({&root, "captures"}, request.captures_size()));
  FS_RETURN_IF_ERROR(CheckEntries({&root, "interventions"}, request.interventions_size(), kMaxInterventions));
  FS_RETURN_IF_ERROR(CheckEntries({&root, "metrics"}, request.metrics_size()));
  api::ForwardRequest out;
  FS_ASSIGN_OR_RETURN(out.model, DecodeModelName(request.model()));
  FS_ASSIGN_OR_RETURN(out.prompts, DecodePrompts(request.prompts(), limits));
  for (int i = 0; i < request.captures_size(); ++i) {
    FS_ASSIGN_OR_RETURN(api::Capture capture, DecodeCapture(request.captures(i), out.prompts.size(), {&root, "captures", i}));
    out.captures.push_back(std::move(capture));
  }
  for (int i = 0; i < request.interventions_size(); ++i) {
    FS_ASSIGN_OR_RETURN(api::Intervention intervention,
                        DecodeIntervention(request.interventions(i), out.prompts.size(), {&root, "interventions", i}));
    out.interventions.push_back(std::move(intervention));
  }
  FS_RETURN_IF_ERROR(DecodeMetrics(request, out));
  if (request.has_logits()) {
    FS_ASSIGN_OR_RETURN(out.logits, DecodeLogits(request.logits(), out.prompts.size()));
  }
  out.isolated = request.isolated();
  return out;
}

void EncodeProvenance(const api::Provenance& from, pb::Provenance* to) {
  to->set_model(from.model);
  to->set_revision(from.revision);
  to->set_weights_sha256(from.weights_sha256);
  to->set_tokenizer_sha256(from.tokenizer_sha256);
  to->set_weight_processing(from.weight_processing);
  to->set_dtype(from.dtype);
  to->set_device(from.device);
  to->set_attention(from.attention);
  to->set_server_version(from.server_version);
  to->set_plan_sha256(from.plan_sha256);
  to->set_isolated(from.isolated);
  to->set_threads(from.threads);
}

void EncodeRow(const api::RowInfo& row, pb::RowInfo* out) {
  out->mutable_token_ids()->Add(row.token_ids.begin(), row.token_ids.end());
  for (const std::string& token : row.tokens) out->add_tokens(token);
  out->set_bos_added(row.bos_added);
}

void EncodeForwardHeader(const api::ForwardHeader& header, pb::ForwardHeader* out) {
  EncodeProvenance(header.provenance, out->mutable_provenance());
  for (const api::RowInfo& row : header.rows) EncodeRow(row, out->add_rows());
}

void EncodeForwardSummary(const api::ForwardSummary& summary, pb::ForwardSummary* out) {
  for (const api::MetricValue& metric : summary.metrics) {
    pb::MetricValue* value = out->add_metrics();
    value->set_name(metric.name);
    value->set_row(metric.row);
    value->set_position(metric.position);
    value->set_value(metric.value);
  }
  out->set_queue_ms(summary.queue_ms);
  out->set_run_ms(summary.run_ms);
  out->set_tokens(summary.tokens);
  out->set_peak_bytes(summary.peak_bytes);
  out->set_reused_tokens(summary.reused_tokens);
  for (const std::string& warning : summary.warnings) out->add_warnings(warning);
}

pb::EstimateReply EncodeEstimate(const api::Estimate& estimate) {
  pb::EstimateReply reply;
  reply.set_peak_bytes(estimate.peak_bytes);
  reply.set_reply_bytes(estimate.reply_bytes);
  reply.set_flops(estimate.flops);
  reply.set_tokens(estimate.tokens);
  reply.set_waves(estimate.waves);
  reply.set_budget_bytes(estimate.budget_bytes);
  return reply;
}

}  // namespace fluoroscope::rpc
