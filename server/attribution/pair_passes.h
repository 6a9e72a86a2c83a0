// The passes that gradient methods make over one pair: the base run, the source run (which begins where the prompts differ), and a backward
// pass for each metric, at the base run or at steps on the way to the source run: on the way of the first residual, or of one place after
// the other inside the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "attribution/pair_scores.h"
#include "run/gradient_run.h"

namespace fluoroscope::attribution {

// A hook point, as a whole.
using Place = std::pair<model::Site, int64_t>;

// Where gradients are taken.
struct Way {
  int64_t steps = 0;  // 0: at the base run; else the mean over so many runs
  bool inside = false;
  std::vector<Place> places;  // inside: where values are put on the way, one place after the other; else the first residual is
};

// Tokens of the source prompt that need not be run, because the base run has run them; `sites` are those that it keeps.
int64_t CommonTokens(const sweep::Pair& pair, const std::set<model::Site>& sites);

class PairPasses : public PairScores {
 public:
  // `pair`, with the number `index`, and `model` outlive it.
  PairPasses(const model::Model& model, const sweep::Pair& pair, size_t index, Way way);

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
  // What a place becomes at the end of the way, less the base run's value. Here: the source run's value.
  virtual at::Tensor Change(model::Site site, int64_t layer) const;

  const model::Model& model() const { return model_; }
  const sweep::Pair& pair() const { return pair_; }
  const run::GradientRun& source() const { return *source_; }
  const run::GradientRun& base() const { return *base_; }
  run::GradientRun& gradients() { return integrated() ? *between_ : *base_; }  // the run that was differentiated last
  bool integrated() const { return way_.steps > 0; }
  int64_t passes() const { return integrated() ? way_.steps : 1; }  // whose scores are averaged
  const std::vector<Place>& places() const { return way_.places; }
  size_t place() const { return place_; }  // of places(): which one the pass at hand has put on the way

 private:
  enum class Stage { kBase, kSource, kBetween, kBackward, kScores, kDone };

  void StepBase();
  void StepSource();
  void StepBetween();
  void BeginBetween();
  bool Next();  // the pass after a complete one; false when there is none
  void StartBackward();

  const model::Model& model_;
  const sweep::Pair& pair_;
  const Way way_;
  Stage stage_ = Stage::kBase;
  std::unique_ptr<run::GradientRun> base_, source_, between_;  // between_: one step of integrated gradients
  int64_t step_ = 0;
  size_t place_ = 0;
  size_t metric_ = 0;
  api::SweepReference reference_;
  uint64_t tokens_ = 0;
};

}  // namespace fluoroscope::attribution
