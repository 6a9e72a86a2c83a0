#include "run/lens_run.h"

#include <algorithm>
#include <numeric>

#include "model/forward.h"
#include "model/largest.h"
#include "model/log_sum.h"

namespace fluoroscope::run {
namespace {

// Nobody looks at the norm's own sites: they are those of the model's last residual, not of the lens.
class NoHooks final : public model::SiteHooks {
 public:
  bool Wants(model::Site, int64_t) const override { return false; }
  bool Wants(model::Site, int64_t, int64_t) const override { return false; }
  at::Tensor At(model::Site, int64_t, const model::PackedRows&, at::Tensor value) override { return value; }
  at::Tensor AtRow(model::Site, int64_t, const model::RowSpan&, at::Tensor value) override { return value; }
};

}  // namespace

void LensRun::Add(const LaneRow& row, const CapturePlan& capture, at::Tensor value) {
  jobs_.push_back({row, &capture, std::move(value), 0, {}});
}

void LensRun::Remove(const Lane& lane) {
  std::erase_if(jobs_, [&](const Job& job) { return job.row.lane == &lane; });
}

void LensRun::Step() {
  Job& job = jobs_.front();
  const LensPlan& lens = *job.capture->lens;
  const at::Tensor vectors = job.value.view({-1, job.value.size(-1)});
  const int64_t count = std::min(kPositionsPerStep, vectors.size(0) - job.next);
  NoHooks nobody;
  const at::Tensor normalized = model::FinalNorm(model_, vectors.narrow(0, job.next, count), model::PackedRows(), nobody);
  const at::Tensor logits = model::Unembed(model_, normalized, /*columns=*/{}).to(at::kFloat);
  const at::Tensor total = model::LogSumExp(logits);
  at::Tensor tokens, chosen;
  if (lens.top_k > 0) {
    std::tie(chosen, tokens) = model::Largest(logits, lens.top_k);
  } else {
    chosen = at::index_select(logits, 1, model::IndexTensor(lens.columns, model_.device));
  }
  const std::array<at::Tensor, 3> made = {tokens, chosen, chosen - total};
  const size_t first = lens.top_k > 0 ? 0 : 1;
  for (size_t part = first; part < 3; ++part) job.parts[part].Put(job.next, vectors.size(0), made[part]);
  job.next += count;
  if (job.next < vectors.size(0)) return;

  std::vector<int64_t> shape = job.value.sizes().vec();
  shape.back() = chosen.size(1);
  static constexpr const char* kParts[] = {"tokens", "logits", "logprobs"};
  for (size_t part = first; part < 3; ++part)
    job.row.lane->out.CapturePart(*job.row.plan, *job.capture, kParts[part], job.parts[part].Take().view(shape));
  jobs_.pop_front();
}

}  // namespace fluoroscope::run
