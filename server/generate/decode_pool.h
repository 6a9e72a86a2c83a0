// All continuations of one model, of whatever requests: a step takes them together.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "generate/decode_batch.h"
#include "generate/generating_row.h"
#include "model/model.h"
#include "run/plan.h"

namespace fluoroscope::generate {

// Whose rows they are.
class DecodeClient {
 public:
  virtual ~DecodeClient() = default;
  // Something went wrong with one of this client's rows, or in a step that had no others. They have left the pool; the client gives back
  // their memory at once, for the others step next.
  virtual void OnDecodeFailed(absl::Status why) = 0;
  // A step of so many rows, of so many clients, begins. One of its clients hears of it.
  virtual void OnStep(size_t clients, size_t rows) = 0;
};

// The weights are read once for a step, however many rows it has: that is where the time of a step goes. So each of the runs that have rows
// here, when its turn comes, does a piece of the step for all. A batch is filled anew for every step: rows come and go between two steps.
// Shared by the runs of a model; used on the executor's thread. Nothing is thrown.
class DecodePool {
 public:
  // A step takes at most so many rows.
  explicit DecodePool(std::shared_ptr<const model::Model> model, size_t most_rows = static_cast<size_t>(run::kPositionsPerStep))
      : model_(std::move(model)), most_rows_(most_rows) {}

  // The row takes part from the next step on, until it has finished. It and its client stay where they are until then or until Leave.
  void Join(GeneratingRow& row, DecodeClient& client);

  // Takes out what is left of a client's rows. A step under way begins anew without them: it must not keep their memory.
  void Leave(const DecodeClient& client);

  // Does the next piece of a step. Rows whose reader has had enough for now sit out. False when there is nothing to do.
  bool Step();

 private:
  struct Member {
    GeneratingRow* row;
    DecodeClient* client;
  };

  bool Begin();
  void EndStep();
  void Failed(absl::Status why);

  const std::shared_ptr<const model::Model> model_;
  const size_t most_rows_;
  std::deque<Member> members_;          // those that have waited longest in front
  std::vector<Member> running_;         // in the step under way; they are members too
  std::unique_ptr<DecodeBatch> batch_;  // the step under way
  size_t apart_ = 0;                    // so many batches take one client's rows only: one of them made a step fail
};

}  // namespace fluoroscope::generate
