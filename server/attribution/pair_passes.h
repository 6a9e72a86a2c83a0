// The passes that gradient methods make over one pair: the base run, the source run (which begins where the prompts differ), and a backward
// pass for each metric, at the base run or at steps on the way from its first residual to the source's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "attribution/pair_scores.h"
#include "run/gradient_run.h"

namespace fluoroscope::attribution {

class PairPasses : public PairScores {
 public:
  // `steps` 0: gradients at the base run; else integrated ones. `pair`, with the number `index`, and `model` outlive it.
  PairPasses(const model::Model& model, const sweep::Pair& pair, size_t index, int64_t steps);

  bool Step() final;
  const api::SweepReference& reference() const final { return reference_; }
  uint64_t tokens() const final { return tokens_; }

 protected:
  // What the runs must keep.
  virtual std::set<model::Site> Sites(bool with_gradients) const = 0;
  // Whether passes follow the one that Differentiate's gradient started.
  virtual bool KeepsGraph() const { return false; }
  // Called after each complete backward pass until it returns false; each call is a bounded piece of work.
  virtual bool StepScores(size_t metric) = 0;

  const model::Model& model() const { return model_; }
  const sweep::Pair& pair() const { return pair_; }
  const run::GradientRun& source() const { return *source_; }
  const run::GradientRun& base() const { return *base_; }
  run::GradientRun& gradients() { return integrated() ? *between_ : *base_; }  // the run that was differentiated last
  bool integrated() const { return steps_ > 0; }
  int64_t passes() const { return integrated() ? steps_ : 1; }  // whose scores are averaged

 private:
  enum class Stage { kBase, kSource, kBetween, kBackward, kScores };

  void StepBase();
  void StepSource();
  void StepBetween();
  bool Next();  // the pass after a complete one; false when there is none
  void StartBackward();
  int64_t Common() const;  // tokens of the source prompt that need not be run, because the base run has run them

  const model::Model& model_;
  const sweep::Pair& pair_;
  const int64_t steps_;
  Stage stage_ = Stage::kBase;
  std::unique_ptr<run::GradientRun> base_, source_, between_;  // between_: one step of integrated gradients
  int64_t step_ = 0;
  size_t metric_ = 0;
  api::SweepReference reference_;
  uint64_t tokens_ = 0;
};

}  // namespace fluoroscope::attribution
