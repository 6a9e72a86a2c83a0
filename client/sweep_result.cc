#include "client/sweep_result.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace fluoroscope::client {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read from the wire as they lie in memory");

// 2 GiB of numbers: far more than a server computes in a request, and less than a broken header could ask for.
constexpr size_t kMaxValues = size_t{1} << 28;

template <typename T>
std::vector<T> Numbers(const std::string& bytes) {
  std::vector<T> numbers(bytes.size() / sizeof(T));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(T));
  return numbers;
}

double Mean(const std::vector<double>& of, size_t pairs, size_t metrics, size_t metric) {
  double sum = 0;
  for (size_t pair = 0; pair < pairs; ++pair) sum += of[pair * metrics + metric];
  return sum / static_cast<double>(pairs);
}

}  // namespace

double SweepResult::MeanBase(size_t metric) const { return Mean(base, pairs(), metrics(), metric); }
double SweepResult::MeanSource(size_t metric) const { return Mean(source, pairs(), metrics(), metric); }

std::vector<double> SweepResult::MeanValues(size_t metric) const {
  std::vector<double> mean(cells, 0);
  for (size_t pair = 0; pair < pairs(); ++pair)
    for (size_t cell = 0; cell < cells; ++cell) mean[cell] += values[(pair * cells + cell) * metrics() + metric];
  for (double& value : mean) value /= static_cast<double>(pairs());
  return mean;
}

absl::StatusOr<std::vector<double>> SweepResult::Normalized(size_t metric) const {
  const double from = MeanBase(metric), to = MeanSource(metric);
  if (std::isnan(to)) return absl::FailedPreconditionError("there is no source run to normalise by: values come from handles");
  const double size = std::max({std::abs(from), std::abs(to), 1e-3});
  if (!(std::abs(to - from) > 1e-3 * size))
    return absl::FailedPreconditionError(absl::StrCat(header.metrics(static_cast<int>(metric)), " is ", from, " in the base run and ", to,
                                                      " in the source run: there is nothing to normalise by"));
  std::vector<double> normalized = MeanValues(metric);
  for (double& value : normalized) value = (value - from) / (to - from);
  return normalized;
}

absl::Status SweepAssembler::Take(const v1::SweepReply& message) {
  if (message.part_case() == v1::SweepReply::kHeader) return Begin(message.header());
  if (message.part_case() == v1::SweepReply::PART_NOT_SET) return absl::OkStatus();  // a part that a newer server adds
  if (!has_header_) return absl::DataLossError("the server's reply does not begin with its header");
  if (message.part_case() == v1::SweepReply::kReference) return TakeReference(message.reference());
  if (message.part_case() == v1::SweepReply::kCells) return TakeCells(message.cells());
  if (message.part_case() == v1::SweepReply::kPrecision) result_.precision = message.precision();
  if (message.part_case() == v1::SweepReply::kSummary) {
    result_.summary = message.summary();
    has_summary_ = true;
  }
  return absl::OkStatus();  // exact cells and their comparison are of attributions and fast sweeps; what matters of the latter is in
                            // `precision`
}

absl::Status SweepAssembler::Begin(const v1::SweepHeader& header) {
  if (has_header_) return absl::DataLossError("the server's reply has two headers");
  has_header_ = true;
  result_.header = header;
  const size_t pairs = result_.pairs(), metrics = result_.metrics();
  if (pairs == 0 || metrics == 0 || header.axes_size() == 0)
    return absl::DataLossError("the server's reply lacks its pairs, its metrics or its axes");
  size_t values = pairs * metrics;
  result_.cells = 1;
  for (const v1::SweepAxisInfo& axis : header.axes()) {
    const auto size = static_cast<size_t>(axis.labels_size());
    if (size == 0 || values > kMaxValues / size) return absl::DataLossError("the server's reply has axes that no grid has");
    values *= size;
    result_.cells *= size;
  }
  result_.values.resize(values);
  result_.base.resize(pairs * metrics);
  result_.source.resize(pairs * metrics, std::numeric_limits<double>::quiet_NaN());
  seen_.resize(pairs * result_.cells);
  seen_references_.resize(pairs);
  return absl::OkStatus();
}

absl::Status SweepAssembler::TakeReference(const v1::SweepReference& reference) {
  const std::vector<double> base = Numbers<double>(reference.base()), source = Numbers<double>(reference.source());
  const size_t pair = reference.pair(), metrics = result_.metrics();
  if (pair >= result_.pairs() || base.size() != metrics || (source.size() != metrics && !source.empty()) || seen_references_[pair])
    return absl::DataLossError(absl::StrCat("the server's reply has runs of pair ", pair, " that its header does not know"));
  seen_references_[pair] = true;
  std::copy(base.begin(), base.end(), result_.base.begin() + static_cast<std::ptrdiff_t>(pair * metrics));
  if (!source.empty()) std::copy(source.begin(), source.end(), result_.source.begin() + static_cast<std::ptrdiff_t>(pair * metrics));
  return absl::OkStatus();
}

absl::Status SweepAssembler::TakeCells(const v1::SweepCells& cells) {
  const std::vector<uint32_t> places = Numbers<uint32_t>(cells.cells());
  const std::vector<double> values = Numbers<double>(cells.values());
  const size_t pair = cells.pair(), metrics = result_.metrics();
  if (pair >= result_.pairs() || values.size() != places.size() * metrics)
    return absl::DataLossError("the server's reply has cells that its header does not know");
  for (size_t i = 0; i < places.size(); ++i) {
    const size_t cell = pair * result_.cells + places[i];
    if (places[i] >= result_.cells || seen_[cell])
      return absl::DataLossError(absl::StrCat("cell ", places[i], " of pair ", pair, " does not exist or came twice"));
    seen_[cell] = true;
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(i * metrics), metrics,
                result_.values.begin() + static_cast<std::ptrdiff_t>(cell * metrics));
  }
  done_ += places.size();
  return absl::OkStatus();
}

absl::StatusOr<SweepResult> SweepAssembler::Finish() {
  if (!has_header_ || !has_summary_) return absl::DataLossError("the server's reply ended without its header or its summary");
  if (done_ != seen_.size()) return absl::DataLossError(absl::StrCat("the reply ended with ", done_, " of ", seen_.size(), " cells"));
  if (std::find(seen_references_.begin(), seen_references_.end(), false) != seen_references_.end())
    return absl::DataLossError("the reply lacks the unchanged runs of a pair");
  return std::move(result_);
}

}  // namespace fluoroscope::client
