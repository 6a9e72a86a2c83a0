// An attribution as the executor sees it: for each pair forward and backward passes, and sums of values times gradients.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "api/attribution.h"
#include "attribution/node_scores.h"
#include "run/gradient_run.h"
#include "run/step_meter.h"
#include "sched/work.h"
#include "sweep/planner.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::attribution {

struct AttributionPlan {
  sweep::SweepPlan sweep;  // what is estimated
  api::AttributionMethod method = api::AttributionMethod::kAttributionPatching;
  int64_t steps = 8;
};

// How the scores are to be read: sign, where the gradient is taken, which steps.
std::string ConventionOf(const AttributionPlan& plan);

// Bytes for admission, and the floating-point operations.
api::SweepCost CostOf(const AttributionPlan& plan);

// Pairs one after the other. Stepped on the executor's thread; its end is reported to the sink exactly once.
class AttributionRun final : public sched::Work {
 public:
  AttributionRun(AttributionPlan plan, api::SweepHeader header, std::vector<std::string> warnings, std::shared_ptr<api::SweepSink> sink,
                 obs::Metrics& metrics, std::chrono::steady_clock::time_point arrived);

  Progress Step() override;
  void Abort(absl::Status why) override;

 private:
  enum class Stage { kSource, kBase, kBackward };

  bool StepPiece();  // false: all pairs are done
  bool StepSource();
  bool StepBase();
  bool StepBackward();
  void StartBackward();
  void AddScores();
  bool FinishPair();
  const sweep::Pair& pair() const { return plan_.sweep.pairs[pair_]; }
  bool is_integrated() const { return plan_.method == api::AttributionMethod::kIntegratedGradients; }
  int64_t steps() const { return is_integrated() ? plan_.steps : 1; }
  std::unique_ptr<run::GradientRun> NewRun(const std::vector<int64_t>& ids, bool with_gradients) const;

  const AttributionPlan plan_;
  api::SweepHeader header_;
  const std::vector<std::string> warnings_;
  std::shared_ptr<api::SweepSink> sink_;
  obs::Metrics& metrics_;
  const std::chrono::steady_clock::time_point arrived_;
  const std::set<model::Site> sites_;
  run::StepMeter meter_;
  double queue_ms_ = 0;
  bool started_ = false;
  uint64_t tokens_ = 0;

  // Of the pair at hand.
  size_t pair_ = 0;
  Stage stage_ = Stage::kSource;
  std::unique_ptr<run::GradientRun> source_, base_, between_;  // between_: one step of integrated gradients
  int64_t step_ = 0;
  size_t metric_ = 0;
  api::SweepReference reference_;
  std::vector<NodeScores> scores_;  // by metric
};

}  // namespace fluoroscope::attribution
