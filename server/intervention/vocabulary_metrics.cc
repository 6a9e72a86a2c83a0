#include "intervention/vocabulary_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "model/log_sum.h"
#include "model/packed_rows.h"

namespace fluoroscope::intervention {
namespace {

using Readings = std::vector<const VocabularyReading*>;

at::Tensor Indices(const std::vector<int64_t>& values, const at::Tensor& like) { return model::IndexTensor(values, like.device()); }

// One number per entry, in float64 on the CPU.
std::vector<double> Numbers(const at::Tensor& values) {
  const at::Tensor wide = values.to(at::kCPU, at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

at::Tensor LinesOf(const at::Tensor& logits, const Readings& readings) {
  std::vector<int64_t> lines;
  for (const VocabularyReading* reading : readings) lines.push_back(reading->line);
  return model::TakeLines(logits, Indices(lines, logits));
}

// The tokens a reading looks at by themselves.
std::vector<int64_t> TokensOf(const VocabularyReading& reading) {
  if (const auto* probability = std::get_if<Probability>(reading.metric)) return probability->tokens;
  if (const auto* entropy = std::get_if<CrossEntropy>(reading.metric)) return {entropy->targets[reading.position]};
  return {};
}

// So many tokens of readings at a time are picked out of the logits: half a megabyte.
constexpr size_t kTokensAtOnce = 16384;

// -log p, p and log p of chosen tokens. The sum over several tokens is taken here, in float64.
void ReadProbabilities(const at::Tensor& logits, const std::vector<double>& log_sums, const Readings& readings) {
  std::vector<int64_t> lines, tokens;
  for (const VocabularyReading* reading : readings)
    for (const int64_t token : TokensOf(*reading)) {
      lines.push_back(reading->line);
      tokens.push_back(token);
    }
  std::vector<double> chosen;
  for (size_t first = 0; first < lines.size(); first += kTokensAtOnce) {
    const auto part = [&](const std::vector<int64_t>& all) {
      const size_t last = std::min(first + kTokensAtOnce, all.size());
      return Indices({all.begin() + static_cast<std::ptrdiff_t>(first), all.begin() + static_cast<std::ptrdiff_t>(last)}, logits);
    };
    const std::vector<double> numbers = Numbers(at::index(logits, {part(lines), part(tokens)}));
    chosen.insert(chosen.end(), numbers.begin(), numbers.end());
  }
  size_t next = 0;
  for (const VocabularyReading* reading : readings) {
    const double log_sum = log_sums[static_cast<size_t>(reading->line)];
    const auto* probability = std::get_if<Probability>(reading->metric);
    if (probability == nullptr) {
      *reading->value = log_sum - chosen[next++];
      continue;
    }
    if (probability->tokens.size() == 1) {  // so that tiny probabilities keep their logarithm
      const double log_probability = chosen[next++] - log_sum;
      *reading->value = probability->logarithm ? log_probability : std::exp(log_probability);
      continue;
    }
    double sum = 0;
    for (size_t i = 0; i < probability->tokens.size(); ++i) sum += std::exp(chosen[next++] - log_sum);
    *reading->value = probability->logarithm ? std::log(sum) : sum;
  }
}

void ReadRanks(const at::Tensor& logits, const Readings& readings) {
  std::vector<int64_t> tokens;
  for (const VocabularyReading* reading : readings) tokens.push_back(std::get<Rank>(*reading->metric).token);
  const at::Tensor lines = LinesOf(logits, readings);
  const at::Tensor own = lines.gather(1, Indices(tokens, logits).unsqueeze(1));
  const std::vector<double> better = Numbers((lines > own).sum(1));
  // NaN compares as false with everything: a line that has one is in no order, and nothing in it may pass for the best.
  const std::vector<double> unordered = Numbers(lines.ne(lines).any(1));
  for (size_t i = 0; i < readings.size(); ++i)
    *readings[i]->value = unordered[i] != 0 ? std::numeric_limits<double>::quiet_NaN() : 1 + better[i];
}

at::Tensor ReferencesOf(const Readings& readings) {
  std::vector<at::Tensor> lines;
  bool same = true;
  const auto reference = [](const VocabularyReading* reading) { return std::get<ToReference>(*reading->metric).reference; };
  for (const VocabularyReading* reading : readings) {
    same = same && reading->kept == readings.front()->kept && reference(reading) == reference(readings.front()) &&
           reading->position == readings.front()->position;
    lines.push_back((*reading->kept)[reference(reading)].narrow(0, static_cast<int64_t>(reading->position), 1));
  }
  return same ? lines.front() : at::cat(lines);
}

// KL(reference || own), from log-probabilities.
at::Tensor Kl(const at::Tensor& own, const at::Tensor& reference) { return (reference - own).mul_(reference.exp()).sum(1); }

at::Tensor Js(const at::Tensor& own, const at::Tensor& reference) {
  const at::Tensor middle = at::logaddexp(own, reference).sub_(std::numbers::ln2);
  const at::Tensor first = (own - middle).mul_(own.exp()).sum(1);
  return (first + (reference - middle).mul_(reference.exp()).sum(1)) / 2;
}

void Compare(ToReference::Measure measure, const at::Tensor& own, const Readings& readings) {
  const at::Tensor lines = LinesOf(own, readings), references = ReferencesOf(readings);
  at::Tensor values;
  switch (measure) {
    case ToReference::Measure::kKl:
      values = Kl(lines, references);
      break;
    case ToReference::Measure::kJs:
      values = Js(lines, references);
      break;
    case ToReference::Measure::kL2:
      values = (lines - references).square_().sum(1).sqrt_();
      break;
  }
  const std::vector<double> numbers = Numbers(values);
  for (size_t i = 0; i < readings.size(); ++i) *readings[i]->value = numbers[i];
}

// So many readings at a time get copies of their lines (five, for JS).
constexpr size_t kReadingsAtOnce = 32;
constexpr int64_t kCopies = 5;

template <typename Read>
void InGroups(const Readings& readings, const Read& read) {
  for (size_t first = 0; first < readings.size(); first += kReadingsAtOnce)
    read(Readings(readings.begin() + static_cast<std::ptrdiff_t>(first),
                  readings.begin() + static_cast<std::ptrdiff_t>(std::min(first + kReadingsAtOnce, readings.size()))));
}

void Keep(const at::Tensor& values, std::span<const ReferenceLine> references, bool log_probabilities) {
  for (const ReferenceLine& reference : references)
    if (reference.log_probabilities == log_probabilities)
      (*reference.kept)[reference.key].select(0, reference.position).copy_(values.select(0, reference.line));
}

}  // namespace

void Evaluate(at::Tensor logits, std::span<const VocabularyReading> readings, std::span<const ReferenceLine> references) {
  Readings probabilities, ranks, to_reference[3];
  for (const VocabularyReading& reading : readings) {
    if (const auto* to = std::get_if<ToReference>(reading.metric)) {
      to_reference[static_cast<size_t>(to->measure)].push_back(&reading);
    } else {
      (std::holds_alternative<Rank>(*reading.metric) ? ranks : probabilities).push_back(&reading);
    }
  }
  const auto compare = [&](ToReference::Measure measure) {
    InGroups(to_reference[static_cast<size_t>(measure)], [&](const Readings& group) { Compare(measure, logits, group); });
  };
  // First what reads logits, then what reads log-probabilities.
  InGroups(ranks, [&](const Readings& group) { ReadRanks(logits, group); });
  compare(ToReference::Measure::kL2);
  Keep(logits, references, /*log_probabilities=*/false);
  const bool keeps = std::any_of(references.begin(), references.end(), [](const ReferenceLine& line) { return line.log_probabilities; });
  if (probabilities.empty() && to_reference[0].empty() && to_reference[1].empty() && !keeps) return;
  const at::Tensor log_sums = model::LogSumExp(logits);
  if (!probabilities.empty()) ReadProbabilities(logits, Numbers(log_sums), probabilities);
  logits.sub_(log_sums);
  Keep(logits, references, /*log_probabilities=*/true);
  compare(ToReference::Measure::kKl);
  compare(ToReference::Measure::kJs);
}

int64_t VocabularyBytes(int64_t lines, bool compares, at::Device device) {
  // Either the exponentials that are summed up, or the copies. A line may be read many times.
  const int64_t copies = compares ? kCopies * static_cast<int64_t>(kReadingsAtOnce) : 0, size = static_cast<int64_t>(sizeof(float));
  return lines * size + std::max(lines * model::LogSumExpBytes(device), copies * size);
}

bool NeedsVocabulary(const Metric& metric) {
  return std::holds_alternative<Probability>(metric) || std::holds_alternative<CrossEntropy>(metric) ||
         std::holds_alternative<ToReference>(metric) || std::holds_alternative<Rank>(metric);
}

}  // namespace fluoroscope::intervention
