#include "rpc/codec_metric.h"

#include <utility>

#include "base/status_macros.h"
#include "rpc/codec_plan.h"
#include "rpc/codec_tensor.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

using MetricKind = decltype(api::Metric::kind);

absl::StatusOr<std::vector<api::TokenRef>> SomeTokens(const google::protobuf::RepeatedPtrField<pb::TokenRef>& tokens, const FieldPath& path,
                                                      const char* name) {
  if (tokens.empty()) return InvalidAt({&path, name}, "is empty: give at least one token");
  return DecodeTokenRefs(tokens, path, name);
}

absl::StatusOr<MetricKind> DecodeDifference(const pb::LogitDifference& difference, const FieldPath& path) {
  api::LogitDifference out;
  FS_ASSIGN_OR_RETURN(out.right, SomeTokens(difference.right(), path, "right"));
  FS_ASSIGN_OR_RETURN(out.wrong, SomeTokens(difference.wrong(), path, "wrong"));
  return out;
}

absl::StatusOr<MetricKind> DecodeMeanLogit(const pb::MeanLogit& mean, const FieldPath& path) {
  FS_ASSIGN_OR_RETURN(std::vector<api::TokenRef> tokens, SomeTokens(mean.tokens(), path, "tokens"));
  return api::MeanLogit{std::move(tokens)};
}

template <typename Message>
absl::StatusOr<MetricKind> DecodeProbability(const Message& message, bool logarithm, const FieldPath& path) {
  FS_ASSIGN_OR_RETURN(std::vector<api::TokenRef> tokens, SomeTokens(message.tokens(), path, "tokens"));
  return api::Probability{std::move(tokens), logarithm};
}

absl::StatusOr<MetricKind> DecodeCrossEntropy(const pb::CrossEntropy& entropy, const FieldPath& path) {
  api::CrossEntropy out;
  if (entropy.has_token()) {
    FS_ASSIGN_OR_RETURN(out.token, DecodeTokenRef(entropy.token(), {&path, "token"}));
  }
  return out;
}

absl::StatusOr<MetricKind> DecodeToReference(const pb::ToReference& to, api::ToReference::Measure measure, size_t prompts, bool of_pairs,
                                             const FieldPath& path) {
  api::ToReference out{.measure = measure, .row = to.row(), .positions = {}};
  if (of_pairs && out.row > 1) return InvalidAt({&path, "row"}, "is ", out.row, "; 0 is the pair's base run, 1 its source run");
  if (!of_pairs && out.row >= prompts)
    return InvalidAt({&path, "row"}, "is ", out.row, "; the request has ", prompts, " prompts, counted from 0");
  if (to.has_positions()) {
    FS_ASSIGN_OR_RETURN(out.positions, DecodePositions(to.positions(), {&path, "positions"}));
  }
  return out;
}

absl::StatusOr<MetricKind> DecodeRank(const pb::Rank& rank, const FieldPath& path) {
  if (!rank.has_token()) return InvalidAt({&path, "token"}, "is missing: a rank is of one token");
  FS_ASSIGN_OR_RETURN(api::TokenRef token, DecodeTokenRef(rank.token(), {&path, "token"}));
  return api::Rank{std::move(token)};
}

absl::StatusOr<MetricKind> DecodeReadOut(const pb::ReadOut& read, const FieldPath& path) {
  api::ReadOut out;
  if (read.site().empty()) return InvalidAt({&path, "site"}, "is empty: give a hook name, for instance \"ln_final.hook_normalized\"");
  if (read.site().size() > kMaxNameBytes)
    return InvalidAt({&path, "site"}, "has ", read.site().size(), " bytes; at most ", kMaxNameBytes, " are allowed");
  out.site = read.site();
  if (read.direction().shape_size() != 1)
    return InvalidAt({&path, "direction.shape"}, "has ", read.direction().shape_size(), " axes; a direction is [size of the last axis]");
  FS_ASSIGN_OR_RETURN(out.direction, DecodeFloats(read.direction(), {&path, "direction"}));
  if (read.has_head()) out.head = read.head();
  return out;
}

absl::StatusOr<MetricKind> DecodeMetricKind(const pb::Metric& from, size_t prompts, bool of_pairs, const FieldPath& path) {
  using Measure = api::ToReference::Measure;
  switch (from.kind_case()) {
    case pb::Metric::kLogitDifference:
      return DecodeDifference(from.logit_difference(), {&path, "logit_difference"});
    case pb::Metric::kMeanLogit:
      return DecodeMeanLogit(from.mean_logit(), {&path, "mean_logit"});
    case pb::Metric::kProbability:
      return DecodeProbability(from.probability(), /*logarithm=*/false, {&path, "probability"});
    case pb::Metric::kLogProbability:
      return DecodeProbability(from.log_probability(), /*logarithm=*/true, {&path, "log_probability"});
    case pb::Metric::kCrossEntropy:
      return DecodeCrossEntropy(from.cross_entropy(), {&path, "cross_entropy"});
    case pb::Metric::kKl:
      return DecodeToReference(from.kl(), Measure::kKl, prompts, of_pairs, {&path, "kl"});
    case pb::Metric::kJs:
      return DecodeToReference(from.js(), Measure::kJs, prompts, of_pairs, {&path, "js"});
    case pb::Metric::kL2:
      return DecodeToReference(from.l2(), Measure::kL2, prompts, of_pairs, {&path, "l2"});
    case pb::Metric::kRank:
      return DecodeRank(from.rank(), {&path, "rank"});
    case pb::Metric::kReadOut:
      return DecodeReadOut(from.read_out(), {&path, "read_out"});
    case pb::Metric::KIND_NOT_SET:
      break;
  }
  return InvalidAt({&path, "kind"}, "is empty");
}

}  // namespace

absl::StatusOr<api::Metric> DecodeMetric(const pb::Metric& metric, size_t prompts, const FieldPath& path, bool of_pairs) {
  api::Metric out;
  if (metric.name().empty()) return InvalidAt({&path, "name"}, "is empty; results are told apart by it");
  if (metric.name().size() > kMaxNameBytes) {
    return InvalidAt({&path, "name"}, "has ", metric.name().size(), " bytes; at most ", kMaxNameBytes, " are allowed");
  }
  out.name = metric.name();
  FS_ASSIGN_OR_RETURN(out.rows, DecodeRows(metric.rows(), prompts, path));
  if (metric.has_positions()) {
    FS_ASSIGN_OR_RETURN(out.positions, DecodePositions(metric.positions(), {&path, "positions"}));
  }
  FS_ASSIGN_OR_RETURN(out.kind, DecodeMetricKind(metric, prompts, of_pairs, path));
  return out;
}

}  // namespace fluoroscope::rpc
