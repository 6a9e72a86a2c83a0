#include "engine/resolve_metrics.h"

#include <algorithm>

#include "base/status_macros.h"
#include "engine/given_tensor.h"

namespace fluoroscope::engine {
namespace {

// The values of all metrics come in one message, which every client can take up to 4 MiB.
constexpr size_t kMaxValueBytes = 3584 << 10;
constexpr size_t kBytesPerValue = 32;  // beside the name: row, position, value, tags

// Logits whose identity failed are no more to be trusted than the site before them.
absl::Status TrustLogits(const PlanDraft& draft) {
  const std::string why = draft.model().refused.Why(model::Site::kLnFinalNormalized);
  return why.empty() ? absl::OkStatus() : absl::FailedPreconditionError("logits: " + why);
}

absl::StatusOr<std::vector<int64_t>> SomeTokens(const std::vector<api::TokenRef>& tokens, const PlanDraft& draft,
                                                const std::string& field) {
  if (tokens.empty()) return absl::InvalidArgumentError(field + " needs at least one token");
  return ResolveTokens(draft.model(), tokens, field);
}

// Makes one metric: first what all rows share, then row by row.
class MetricMaker {
 public:
  MetricMaker(const api::Metric& metric, PlanDraft& draft, const std::string& field) : metric_(metric), draft_(draft), field_(field) {}

  absl::Status Prepare() {
    return std::visit([&](const auto& kind) { return PrepareKind(kind); }, metric_.kind);
  }

  absl::StatusOr<std::vector<int64_t>> PositionsOf(uint32_t row) {
    const int64_t length = draft_.row(row).length();
    const auto* entropy = std::get_if<api::CrossEntropy>(&metric_.kind);
    const bool next_tokens = entropy != nullptr && !entropy->token;
    if (metric_.positions || next_tokens) {
      FS_ASSIGN_OR_RETURN(std::vector<int64_t> positions, draft_.PositionsOf(metric_.positions, row, field_ + ".positions"));
      if (!metric_.positions && length > 1) positions.pop_back();
      if (next_tokens && positions.back() + 1 >= length)
        return absl::InvalidArgumentError(field_ + ".cross_entropy: position " + std::to_string(positions.back()) + " of row " +
                                          std::to_string(row) + " is its last and has no next token; give positions before it, or a token");
      return positions;
    }
    return std::vector<int64_t>{length - 1};
  }

  // The metric of one row; some kinds differ from row to row.
  absl::StatusOr<intervention::Metric> Make(uint32_t row, const std::vector<int64_t>& positions) {
    if (const auto* to = std::get_if<api::ToReference>(&metric_.kind)) return Compare(*to, row, positions);
    if (const auto* read = std::get_if<api::ReadOut>(&metric_.kind)) return Read(*read, row, positions);
    const auto* entropy = std::get_if<api::CrossEntropy>(&metric_.kind);
    if (entropy == nullptr) return shared_;
    intervention::CrossEntropy targets;
    const std::vector<int64_t>& ids = draft_.row(row).ids;
    for (const int64_t position : positions) targets.targets.push_back(entropy->token ? target_ : ids[static_cast<size_t>(position) + 1]);
    if (std::find(targets.targets.begin(), targets.targets.end(), run::kNoToken) != targets.targets.end())
      return absl::InvalidArgumentError(field_ + ".cross_entropy: row " + std::to_string(row) +
                                        " begins with activations without token ids; give those, or a token");
    return targets;
  }

 private:
  absl::Status PrepareKind(const api::LogitDifference& difference) {
    intervention::LogitDifference out;
    FS_ASSIGN_OR_RETURN(out.right, SomeTokens(difference.right, draft_, field_ + ".logit_difference.right"));
    FS_ASSIGN_OR_RETURN(out.wrong, SomeTokens(difference.wrong, draft_, field_ + ".logit_difference.wrong"));
    shared_ = std::move(out);
    return absl::OkStatus();
  }
  absl::Status PrepareKind(const api::MeanLogit& mean) {
    FS_ASSIGN_OR_RETURN(std::vector<int64_t> tokens, SomeTokens(mean.tokens, draft_, field_ + ".mean_logit.tokens"));
    shared_ = intervention::MeanLogit{std::move(tokens)};
    return absl::OkStatus();
  }
  absl::Status PrepareKind(const api::Probability& probability) {
    const std::string name = probability.logarithm ? ".log_probability.tokens" : ".probability.tokens";
    FS_ASSIGN_OR_RETURN(std::vector<int64_t> tokens, SomeTokens(probability.tokens, draft_, field_ + name));
    std::sort(tokens.begin(), tokens.end());
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    shared_ = intervention::Probability{std::move(tokens), probability.logarithm};
    return absl::OkStatus();
  }
  absl::Status PrepareKind(const api::CrossEntropy& entropy) {
    if (!entropy.token) return absl::OkStatus();
    FS_ASSIGN_OR_RETURN(target_, ResolveToken(draft_.model(), *entropy.token, field_ + ".cross_entropy.token"));
    return absl::OkStatus();
  }
  absl::Status PrepareKind(const api::Rank& rank) {
    FS_ASSIGN_OR_RETURN(const int64_t token, ResolveToken(draft_.model(), rank.token, field_ + ".rank.token"));
    shared_ = intervention::Rank{token};
    return absl::OkStatus();
  }
  absl::Status PrepareKind(const api::ToReference& to) {
    if (to.row < draft_.rows()) return absl::OkStatus();
    return absl::InvalidArgumentError(field_ + ": reference row " + std::to_string(to.row) + " does not exist; the request has " +
                                      std::to_string(draft_.rows()) + " prompts");
  }
  absl::Status PrepareKind(const api::ReadOut& read) {
    api::Selection select;
    select.sites = {read.site};
    if (read.head) select.heads = {*read.head};
    FS_ASSIGN_OR_RETURN(parts_, draft_.PartsOf(select, /*for_edit=*/false, field_ + ".read_out"));
    if (parts_.size() != 1)
      return absl::InvalidArgumentError(field_ + ".read_out.site '" + read.site + "' matches " + std::to_string(parts_.size()) +
                                        " hook points; one is needed");
    const std::string name = model::FullName(parts_[0].hook.site, parts_[0].hook.layer);
    if (model::HeadAxis(model::SpecOf(parts_[0].hook.site)) >= 0 && !read.head)
      return absl::InvalidArgumentError(field_ + ".read_out.head is missing: " + name + " has a value per head");
    FS_ASSIGN_OR_RETURN(direction_, GivenTensor(read.direction, 1, draft_.model()));
    return absl::OkStatus();
  }

  absl::StatusOr<intervention::Metric> Compare(const api::ToReference& to, uint32_t row, const std::vector<int64_t>& positions) {
    const std::string rows = "row " + std::to_string(row) + " with row " + std::to_string(to.row);
    if (row == to.row)
      return absl::InvalidArgumentError(field_ + " compares " + rows + ": a row cannot be its own reference; name the rows it is for");
    std::vector<int64_t> there = positions;
    if (to.positions) {
      FS_ASSIGN_OR_RETURN(there, draft_.PositionsOf(to.positions, to.row, field_ + " (reference).positions"));
      FS_RETURN_IF_ERROR(CheckAscending(metric_.positions, row, draft_, field_ + ".positions"));
      FS_RETURN_IF_ERROR(CheckAscending(to.positions, to.row, draft_, field_ + " (reference).positions"));
    } else if (positions.back() >= draft_.row(to.row).length()) {
      return absl::InvalidArgumentError(field_ + " compares " + rows + " at position " + std::to_string(positions.back()) +
                                        ", but the reference has only " + std::to_string(draft_.row(to.row).length()) +
                                        " tokens; give the reference's positions for prompts of different length");
    }
    if (there.size() != positions.size())
      return absl::InvalidArgumentError(field_ + " compares " + rows + ": " + std::to_string(there.size()) + " reference positions for " +
                                        std::to_string(positions.size()) + " positions; the counts must agree");
    using Measure = intervention::ToReference::Measure;
    const Measure measure = to.measure == api::ToReference::Measure::kKl   ? Measure::kKl
                            : to.measure == api::ToReference::Measure::kJs ? Measure::kJs
                                                                           : Measure::kL2;
    FS_ASSIGN_OR_RETURN(const size_t key, draft_.KeepLogits(to.row, there, measure != Measure::kL2, field_));
    draft_.ReadsFrom(row, to.row);
    return intervention::ToReference{measure, key};
  }

  absl::StatusOr<intervention::Metric> Read(const api::ReadOut&, uint32_t row, const std::vector<int64_t>& positions) {
    FS_ASSIGN_OR_RETURN(const run::Place place, draft_.PlaceOf(parts_[0], row, positions, field_ + ".read_out"));
    const int64_t size = draft_.LastAxis(place.site, row);
    if (direction_.numel() != size)
      return absl::InvalidArgumentError(field_ + ".read_out.direction has " + std::to_string(direction_.numel()) +
                                        " numbers; the last axis of " + model::FullName(place.site, place.layer) + " has " +
                                        std::to_string(size));
    FS_ASSIGN_OR_RETURN(const size_t key, draft_.Keep(row, place, field_));
    return intervention::ReadOut{key, direction_};
  }

  const api::Metric& metric_;
  PlanDraft& draft_;
  const std::string& field_;
  intervention::Metric shared_;  // the metric itself, for kinds that are the same in every row
  int64_t target_ = 0;           // of a cross-entropy with a given token
  std::vector<PlanDraft::Part> parts_;
  at::Tensor direction_;
};

}  // namespace

absl::Status ResolveMetric(const api::Metric& metric, PlanDraft& draft, const std::string& field) {
  FS_RETURN_IF_ERROR(TrustLogits(draft));
  FS_ASSIGN_OR_RETURN(std::vector<uint32_t> rows, ResolveRows(metric.rows, draft.rows(), field + ".rows"));
  // "All rows" means all but the one they are compared with.
  const auto* to = std::get_if<api::ToReference>(&metric.kind);
  if (to != nullptr && metric.rows.empty()) std::erase(rows, to->row);
  if (rows.empty()) return absl::InvalidArgumentError(field + " matches no row: the only prompt is its own reference");
  MetricMaker maker(metric, draft, field);
  FS_RETURN_IF_ERROR(maker.Prepare());
  for (const uint32_t row : rows) {
    FS_ASSIGN_OR_RETURN(std::vector<int64_t> positions, maker.PositionsOf(row));
    FS_RETURN_IF_ERROR(draft.CountPositions(positions.size(), field));
    FS_ASSIGN_OR_RETURN(intervention::Metric made, maker.Make(row, positions));
    draft.row(row).metrics.push_back({metric.name, std::move(positions), std::move(made)});
  }
  return absl::OkStatus();
}

absl::Status CheckMetricValues(PlanDraft& draft) {
  size_t values = 0, bytes = 0;
  for (uint32_t row = 0; row < draft.rows(); ++row)
    for (const run::MetricPlan& metric : draft.row(row).metrics) {
      values += metric.positions.size();
      bytes += metric.positions.size() * (metric.name.size() + kBytesPerValue);
    }
  if (bytes <= kMaxValueBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError("metrics give " + std::to_string(values) + " values, which would take " + std::to_string(bytes) +
                                      " bytes of the reply; " + std::to_string(kMaxValueBytes) +
                                      " are allowed. Ask for fewer positions or rows at a time");
}

absl::Status ResolveLogits(const api::LogitsRequest& logits, PlanDraft& draft) {
  FS_RETURN_IF_ERROR(TrustLogits(draft));
  FS_ASSIGN_OR_RETURN(const std::vector<uint32_t> rows, ResolveRows(logits.rows, draft.rows(), "logits.rows"));
  FS_ASSIGN_OR_RETURN(const std::vector<int64_t> columns, ResolveTokens(draft.model(), logits.tokens, "logits.tokens"));
  const int64_t vocabulary = draft.arch().vocabulary;
  if (logits.top_k > vocabulary)
    return absl::InvalidArgumentError("logits.top_k is " + std::to_string(logits.top_k) + "; the vocabulary has " +
                                      std::to_string(vocabulary));
  if (logits.top_k > 0 && !columns.empty())
    return absl::InvalidArgumentError("logits: top_k and tokens exclude each other; top_k looks at the whole vocabulary");
  const std::optional<api::Positions> positions = logits.positions ? logits.positions : api::Positions{api::LastPosition()};
  for (const uint32_t row : rows) {
    FS_ASSIGN_OR_RETURN(std::vector<int64_t> resolved, draft.PositionsOf(positions, row, "logits.positions"));
    draft.row(row).logits = run::LogitsPlan{std::move(resolved), columns, logits.top_k};
  }
  return absl::OkStatus();
}

}  // namespace fluoroscope::engine
