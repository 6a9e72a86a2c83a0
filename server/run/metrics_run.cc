#include "run/metrics_run.h"

#include <map>
#include <span>

#include "model/forward.h"

namespace fluoroscope::run {
namespace {

// Values computed in one step beside its products: a line may be wanted by many metrics.
constexpr size_t kReadingsPerStep = 512;

}  // namespace

MetricsRun::MetricsRun(const model::Model& model, const LaneRows& rows, const model::PackedRows& live) : model_(model) {
  const auto row_of = [&](const model::RowSpan& span) -> const LaneRow& { return rows[static_cast<size_t>(span.slot)]; };
  size_t count = 0;
  for (const model::RowSpan& span : live.rows())
    for (const MetricPlan& metric : row_of(span).plan->metrics) count += metric.positions.size();
  values_.reserve(count);  // they stay where they are
  for (const model::RowSpan& span : live.rows()) AddRow(row_of(span), span);
  done_ = values_.empty() && lines_.empty();
}

void MetricsRun::AddRow(const LaneRow& row, const model::RowSpan& span) {
  std::map<int64_t, Line> lines;
  const auto line_at = [&](int64_t position) -> Line& {
    Line& line = lines[span.LineOf(position)];
    line.line = span.LineOf(position);
    return line;
  };
  for (const MetricPlan& metric : row.plan->metrics) {
    const std::vector<intervention::WeightedToken> tokens = intervention::WeightedTokensOf(metric.metric);
    for (size_t i = 0; i < metric.positions.size(); ++i) {
      double* value = &values_.emplace_back(Value{&row, &metric, i}).value;
      if (!tokens.empty()) columns_.push_back({span.LineOf(metric.positions[i]), tokens, value});
      if (intervention::NeedsVocabulary(metric.metric))
        line_at(metric.positions[i]).readings.push_back({0, &metric.metric, i, value, &row.lane->kept});
    }
  }
  for (const KeepLogitsPlan& keep : row.plan->keep_logits) {
    const int64_t count = static_cast<int64_t>(keep.positions.size());
    row.lane->kept[keep.key] = at::empty({count, model_.arch.vocabulary}, at::TensorOptions(model_.device).dtype(at::kFloat));
    for (int64_t i = 0; i < count; ++i)
      line_at(keep.positions[static_cast<size_t>(i)]).references.push_back({0, keep.key, i, keep.log_probabilities, &row.lane->kept});
  }
  for (auto& [_, line] : lines) lines_.push_back(std::move(line));
}

void MetricsRun::Step(const at::Tensor& normalized) {
  if (next_column_ < columns_.size()) {
    const std::span<const intervention::ColumnReading> waiting = std::span(columns_).subspan(next_column_);
    const size_t count = intervention::ReadingsPerProduct(waiting);
    intervention::Evaluate(model_, normalized, waiting.first(count));
    next_column_ += count;
  } else if (next_line_ < lines_.size()) {
    Vocabulary(normalized);
  }
  if (next_column_ < columns_.size() || next_line_ < lines_.size()) return;
  ReadOut();
  for (const Value& value : values_)
    value.row->lane->out.Metric(
        {value.metric->name, value.row->plan->index, static_cast<int32_t>(value.metric->positions[value.position]), value.value});
  done_ = true;
}

void MetricsRun::Vocabulary(const at::Tensor& normalized) {
  std::vector<int64_t> lines;
  std::vector<intervention::VocabularyReading> readings;
  std::vector<intervention::ReferenceLine> references;
  while (next_line_ < lines_.size() && static_cast<int64_t>(lines.size()) < kPositionsPerStep &&
         (lines.empty() || readings.size() + lines_[next_line_].readings.size() <= kReadingsPerStep)) {
    const Line& line = lines_[next_line_++];
    const int64_t here = static_cast<int64_t>(lines.size());
    lines.push_back(line.line);
    for (intervention::VocabularyReading reading : line.readings) readings.emplace_back(reading).line = here;
    for (intervention::ReferenceLine reference : line.references) references.emplace_back(reference).line = here;
  }
  const at::Tensor taken = model::TakeLines(normalized, model::IndexTensor(lines, model_.device));
  intervention::Evaluate(model::Unembed(model_, taken, /*columns=*/{}).to(at::kFloat), readings, references);
}

// One product for each direction, with the values of all rows that are read along it.
void MetricsRun::ReadOut() {
  struct Group {
    std::vector<at::Tensor> values;
    std::vector<double*> to;
  };
  std::map<const void*, std::pair<at::Tensor, Group>> groups;  // by the direction's memory
  for (Value& value : values_) {
    const auto* read = std::get_if<intervention::ReadOut>(&value.metric->metric);
    if (read == nullptr) continue;
    auto& [direction, group] = groups[read->direction.unsafeGetTensorImpl()];
    direction = read->direction;
    if (value.position == 0) group.values.push_back(value.row->lane->kept[read->value].to(at::kFloat).reshape({-1, direction.size(0)}));
    group.to.push_back(&value.value);
  }
  for (const auto& [_, entry] : groups) {
    const auto& [direction, group] = entry;
    const at::Tensor products = at::matmul(at::cat(group.values), direction).to(at::kCPU).contiguous();
    for (size_t i = 0; i < group.to.size(); ++i) *group.to[i] = static_cast<double>(products.const_data_ptr<float>()[i]);
  }
}

}  // namespace fluoroscope::run
