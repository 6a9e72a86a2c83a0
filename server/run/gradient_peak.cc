#include "run/gradient_peak.h"

#include <algorithm>
#include <initializer_list>
#include <set>
#include <vector>

#include "run/metric_gradient.h"
#include "run/row_gradients.h"
#include "run/sizes.h"
#include "run/unsent.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;
using model::Site;

// One segment of one metric's pass, in elements for each token.
class Segment {
 public:
  Segment(const RowPlan& row, const BackwardPass& pass, int64_t number, const model::Model& model)
      : row_(row), number_(number), arch_(model.arch), wide_(model.dtype == at::kFloat ? 1 : 2) {
    for (const GradientPlan& gradient : row.gradients)
      if (gradient.metric == pass.metric && IsHere(gradient.capture.place)) recorded_.insert(gradient.capture.place.site);
    for (const EditPlan& edit : row.edits)
      if (IsHere(edit.place)) edited_.push_back(edit.place.site);
  }

  // At most, while it is run again and differentiated; the gradient in its output is part of it. The factors are those that the counting
  // allocator showed, over ratios of sizes from 1 : 4 to 8 : 1 (tests/server/engine/estimate_test.cc has some of them).
  int64_t Width() const {
    const int64_t d = arch_.d_model;
    int64_t width = number_ == 0 ? 3 * d : number_ == 1 + 2 * arch_.layers ? Norm() : number_ % 2 == 0 ? Mlp() : Attention();
    // An edit copies the site, and works in float32, to which the model's dtype is widened.
    for (const Site site : edited_) width += (wide_ == 1 ? 2 : 6) * ElementsPerToken(site, row_, arch_);
    return width + Recorded();
  }

  // The gradients that it is run for.
  int64_t Recorded() const {
    int64_t elements = 0;
    for (const Site site : recorded_) elements += ElementsPerToken(site, row_, arch_);
    return elements;
  }

 private:
  bool IsHere(const Place& place) const { return SegmentOf(row_, place.site, place.layer, arch_) == number_; }
  bool Looks(std::initializer_list<Site> sites) const {
    return std::any_of(sites.begin(), sites.end(), [&](Site site) {
      return recorded_.contains(site) || std::find(edited_.begin(), edited_.end(), site) != edited_.end();
    });
  }
  // In single operations, in float32, where somebody looks at it; else in one.
  int64_t Norm() const {
    const bool looked = Looks(
        {Site::kLn1Scale, Site::kLn1Normalized, Site::kLn2Scale, Site::kLn2Normalized, Site::kLnFinalScale, Site::kLnFinalNormalized});
    return wide_ == 1 && !looked ? (arch_.norm == model::Norm::kLayer ? 7 : 5) * arch_.d_model : 9 * wide_ * arch_.d_model;
  }
  int64_t Attention() const {
    const int64_t d = arch_.d_model, q = arch_.q_size(), kv = arch_.kv_size();
    const bool rotary = arch_.positions == model::PositionScheme::kRotary;
    const int64_t fused = 3 * d + 4 * (q + kv) + (rotary ? q + kv + 3 * arch_.d_head : 0);
    const int64_t scores = Looks({Site::kAttnScores, Site::kPattern}) ? 3 * arch_.heads * row_.length() + 3 * d + 5 * q + 2 * kv : 0;
    return std::max({fused, scores, Norm() + d + q + 2 * kv});
  }
  int64_t Mlp() const {
    const int64_t d = arch_.d_model;
    int64_t products = 0;  // of d_mlp's size
    if (arch_.gated_mlp)
      products = Looks({Site::kMlpPre, Site::kMlpPreLinear}) ? 6 : 8;
    else  // the activation keeps what it is made from, or what it makes
      products = Looks({arch_.activation == model::Activation::kRelu ? Site::kMlpPost : Site::kMlpPre}) ? 2 : 3;
    return std::max(products * arch_.d_mlp + 2 * d, Norm() + arch_.d_mlp);
  }

  const RowPlan& row_;
  const int64_t number_;
  const Architecture& arch_;
  const int64_t wide_;  // float32's size, in elements
  std::set<Site> recorded_;
  std::vector<Site> edited_;
};

// Of one pass: the results of the segments from this one on.
int64_t ResultsFrom(const RowPlan& row, const BackwardPass& pass, int64_t segment, const Architecture& arch) {
  int64_t bytes = 0;
  for (const GradientPlan& gradient : row.gradients) {
    const Place& place = gradient.capture.place;
    if (gradient.metric == pass.metric && SegmentOf(row, place.site, place.layer, arch) >= segment)
      bytes += CaptureBytes(gradient.capture, row, arch, sizeof(float));
  }
  return bytes;
}

}  // namespace

int64_t GradientResultBytes(const RowPlan& row, const Architecture& arch) {
  int64_t bytes = 0;
  for (const GradientPlan& gradient : row.gradients) bytes += CaptureBytes(gradient.capture, row, arch, sizeof(float));
  return bytes;
}

int64_t GradientPeakBytes(const RunPlan& plan, const RowPlan& row, int64_t before, int64_t shared) {
  const model::Model& model = *plan.model;
  const Architecture& arch = model.arch;
  const int64_t element_size = static_cast<int64_t>(c10::elementSize(model.dtype)), token = row.length() * element_size;
  const int64_t line = token * arch.d_model;  // of the residual
  const std::vector<BackwardPass> passes = BackwardPasses(row, arch);
  int64_t first = 1 + 2 * arch.layers, last = 0, results = before, most = 0;
  const auto unsent = [&](int64_t all, int64_t at_once) { return UnsentBytes(plan, all, at_once + shared); };
  for (const BackwardPass& pass : passes) {
    first = std::min(first, pass.first);
    last = std::max(last, pass.last);
  }
  const auto inputs_to = [&](int64_t segment) { return std::max<int64_t>(0, segment - std::max<int64_t>(first, 1) + 1) * line; };
  for (size_t i = 0; i < passes.size(); ++i) {
    const BackwardPass& pass = passes[i];
    const MetricPlan& metric = row.metrics[pass.metric];
    const bool reads = std::holds_alternative<intervention::ReadOut>(metric.metric), is_last = i + 1 == passes.size();
    const int64_t lines = std::min<int64_t>(kGradientLines, static_cast<int64_t>(metric.positions.size()));
    if (!reads) {
      most = std::max(most, unsent(results, 0) + inputs_to(last) + 2 * line + DifferentiateBytes(metric.metric, lines, arch, element_size));
    } else {  // zeros, for all that lies behind it
      const int64_t behind = ResultsFrom(row, pass, pass.last + 1, arch);
      most = std::max(most, unsent(results + behind, behind) + inputs_to(last) + line);
    }
    for (int64_t number = pass.last; number >= pass.first; --number) {
      const Segment segment(row, pass, number, model);
      // The last pass lets go of what it has been through.
      const int64_t inputs = is_last ? inputs_to(number) : inputs_to(last) + line;
      const int64_t sent = ResultsFrom(row, pass, number + 1, arch), with_these = ResultsFrom(row, pass, number, arch);
      most = std::max({most, unsent(results + sent, 0) + inputs + segment.Width() * token,
                       unsent(results + with_these, with_these - sent) + inputs + segment.Recorded() * token + line});
    }
    results += ResultsFrom(row, pass, 0, arch);
  }
  return most;
}

double GradientFlops(const RowPlan& row, const Architecture& arch, double forward) {
  // Forward once; then, for each metric, forward again and as much backward, in values alone.
  return row.gradients.empty() ? 0 : forward * static_cast<double>(1 + 2 * BackwardPasses(row, arch).size());
}

}  // namespace fluoroscope::run
