#include "intervention/column_metrics.h"

#include <unordered_map>

#include "model/packed_rows.h"

namespace fluoroscope::intervention {
namespace {

// Entries of a product's result: with rows that all want other tokens most of them are not needed, but they cost less than a product each.
constexpr size_t kEntriesPerProduct = 1 << 16;

void AddMean(const std::vector<int64_t>& tokens, double sign, std::vector<WeightedToken>& out) {
  for (const int64_t token : tokens) out.push_back({token, sign / static_cast<double>(tokens.size())});
}

// Numbers things in the order in which they come.
class Numbering {
 public:
  int64_t Of(int64_t thing) {
    const auto [it, is_new] = numbers_.try_emplace(thing, things_.size());
    if (is_new) things_.push_back(thing);
    return static_cast<int64_t>(it->second);
  }
  const std::vector<int64_t>& things() const { return things_; }

 private:
  std::unordered_map<int64_t, size_t> numbers_;
  std::vector<int64_t> things_;
};

}  // namespace

std::vector<WeightedToken> WeightedTokensOf(const Metric& metric) {
  std::vector<WeightedToken> out;
  if (const auto* difference = std::get_if<LogitDifference>(&metric)) {
    AddMean(difference->right, 1, out);
    AddMean(difference->wrong, -1, out);
  } else if (const auto* mean = std::get_if<MeanLogit>(&metric)) {
    AddMean(mean->tokens, 1, out);
  }
  return out;
}

size_t ReadingsPerProduct(std::span<const ColumnReading> readings) {
  Numbering lines, tokens;
  for (size_t i = 0; i < readings.size(); ++i) {
    lines.Of(readings[i].line);
    for (const WeightedToken& token : readings[i].tokens) tokens.Of(token.token);
    const size_t columns = tokens.things().size();
    if (i > 0 && (columns > kTokensPerProduct || columns * lines.things().size() > kEntriesPerProduct)) return i;
  }
  return readings.size();
}

void Evaluate(const model::Model& model, const at::Tensor& normalized, std::span<const ColumnReading> readings) {
  Numbering lines, tokens;
  for (const ColumnReading& reading : readings) {
    lines.Of(reading.line);
    for (const WeightedToken& token : reading.tokens) tokens.Of(token.token);
  }
  // A few columns in float32 cost nothing; in bfloat16 a logit of 16 would come in steps of an eighth.
  const at::Tensor columns = model::IndexTensor(tokens.things(), model.device);
  const model::Linear& unembed = model.weights.unembed;
  const model::Linear chosen{model::TakeLines(unembed.weight, columns).to(at::kFloat),
                             unembed.bias.defined() ? model::TakeLines(unembed.bias, columns).to(at::kFloat) : unembed.bias};
  const at::Tensor taken = model::TakeLines(normalized, model::IndexTensor(lines.things(), model.device)).to(at::kFloat);
  const at::Tensor logits = chosen.Apply(taken).to(at::kCPU).contiguous();
  const float* data = logits.const_data_ptr<float>();
  for (const ColumnReading& reading : readings) {
    const float* line = data + lines.Of(reading.line) * logits.size(1);
    *reading.value = 0;
    for (const WeightedToken& token : reading.tokens) *reading.value += token.weight * static_cast<double>(line[tokens.Of(token.token)]);
  }
}

}  // namespace fluoroscope::intervention
