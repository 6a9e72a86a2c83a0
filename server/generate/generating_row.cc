#include "generate/generating_row.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "model/largest.h"

namespace fluoroscope::generate {
namespace {

std::string LabelOf(const GeneratePlan& plan, int64_t id) { return plan.tokenizer == nullptr ? "" : plan.tokenizer->TokenText(id); }

run::RowPlan Labels(const run::RowPlan& prompt, uint32_t sample) {
  run::RowPlan row;
  row.index = prompt.index;
  row.sample = sample;
  row.ids = prompt.ids;
  return row;
}

}  // namespace

GeneratingRow::GeneratingRow(const GeneratePlan& plan, const ContinuationPlan& continuation, uint32_t sample, KvCache cache,
                             const std::vector<at::Tensor>& kept, run::ResultWriter& out)
    : plan_(plan),
      continuation_(continuation),
      cache_(std::move(cache)),
      kept_(kept),
      out_(out),
      row_(Labels(plan.prompts.rows[continuation.prompt], sample)),
      sampler_(plan.sampling, sample, row_.ids),
      text_(plan.tokenizer.get(), plan.stop, row_.ids) {}

void GeneratingRow::Accept(at::Tensor logits, const at::Tensor& log_probabilities) {
  api::GeneratedToken token;
  token.row = row_.index;
  token.sample = *row_.sample;
  token.index = tokens_;
  const std::optional<int64_t> id = sampler_.Pick(logits, tokens_);
  if (!id) {
    failure_ = absl::InvalidArgumentError("prompts[" + std::to_string(row_.index) + "]: the logits of token " + std::to_string(tokens_) +
                                          " are not finite; an intervention makes the numbers too large");
    return;
  }
  token.id = *id;
  token.logprob = log_probabilities.const_data_ptr<float>()[token.id];
  if (plan_.top_logprobs > 0) {
    const auto [values, ids] = model::Largest(log_probabilities.unsqueeze(0), plan_.top_logprobs);
    for (int64_t i = 0; i < plan_.top_logprobs; ++i) {
      const int64_t likely = ids.const_data_ptr<int64_t>()[i];
      token.top.push_back({likely, LabelOf(plan_, likely), values.const_data_ptr<float>()[i]});
    }
  }
  Take(std::move(token));
}

void GeneratingRow::Take(api::GeneratedToken token) {
  const int64_t id = token.id;
  sampler_.Said(id);
  row_.ids.push_back(id);
  ++tokens_;
  std::optional<api::FinishReason> reason;
  std::optional<size_t> stop;
  if (std::find(plan_.end_tokens.begin(), plan_.end_tokens.end(), id) != plan_.end_tokens.end()) {
    text_.AddSilently(std::move(token));
    reason = api::FinishReason::kEndOfSequence;
  } else {
    stop = text_.Add(std::move(token));
    if (stop) {
      reason = api::FinishReason::kStop;
    } else if (tokens_ == plan_.max_new_tokens) {
      reason = api::FinishReason::kLength;
    }
  }
  finished_ = reason.has_value();
  for (api::GeneratedToken& certain : reason ? text_.Finish(*reason, stop) : text_.Take()) out_.Push(std::move(certain));
}

}  // namespace fluoroscope::generate
