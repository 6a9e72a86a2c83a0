// The rows of many users in one batch: what runs of a model wait for at the same time is run together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "model/model.h"
#include "run/batch_run.h"
#include "run/lane.h"
#include "run/step_meter.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::run {

// Whose rows they are.
class BatchClient {
 public:
  virtual ~BatchClient() = default;
  // A batch with its rows begins.
  virtual void OnBatchBegin() = 0;
  // Its rows have run. It may come with its next ones at once.
  virtual void OnBatchDone() = 0;
  // Something went wrong with its rows, and they were alone in the batch.
  virtual void OnBatchFailed(absl::Status why) = 0;
  // It is to run its rows by itself: from where `begun` is, or from their start. They have left the pool.
  virtual void OnApart(std::vector<size_t> rows, std::unique_ptr<BatchRun> begun) = 0;
};

// Many short requests at a time are slow one by one, because each reads all weights for a few rows. So runs bring the rows of their next
// batch here, and whose turn it is does a piece of the batch under way, whosoever's rows are in it. The pool has one batch at a time; rows
// that come meanwhile wait for the next, so that batches grow with the load, and nobody waits for company that may not come. Runs of
// several waves come with one wave after the other, and each is merged with what else waits then. Every row keeps its own plan, kept values
// and writer (Lane).
//
// - A batch is open until it is half done, and looks up after each eighth of its layers. Requests sent at the same time arrive within some
//   milliseconds of each other, so when as many lines as it has have come by then, it begins anew with them, as long as no more than a
//   sixteenth of a pass of the new batch through all layers is done twice, all such beginnings together.
// - A batch of one run only looks up once, and sends its results as they arise from then on. When its reader has had enough, that run goes
//   on by itself, out of the others' way. In a batch of several runs nothing is sent before its end: results wait in their writers (they
//   are charged anyway: unsent.h), so that no reader can hold it up, and so that it can be run again.
// - If a batch of several runs fails, all of them run their rows anew by themselves; the guilty one fails then, alone.
// - A run that ends early takes its rows out of the batch (BatchRun::Remove); the others' go on where they are.
// - Batches stay at kPooledLines lines, and runs with larger ones of their own do not come here: merging speeds those up no more, and a
//   short request would wait for their end.
//
// Bytes stay charged to each run: a batch needs no more than its runs need one by one, added up. Shared by the runs of a model; used on the
// executor's thread. Nothing is thrown.
class BatchPool {
 public:
  // `metrics` outlives it.
  BatchPool(std::shared_ptr<const model::Model> model, std::string model_name, obs::Metrics& metrics);

  // Whether so many lines are worth sharing a batch.
  static bool Takes(int64_t lines) { return lines <= kPooledLines / 2; }

  // Rows (indices into the lane's plan) of one wave, at least one. Until one of the client's methods says how it went, or Leave, lane,
  // client and meter stay where they are, and the client has no other rows here. The meter hears what the rows cost.
  void Enter(const Lane& lane, std::vector<size_t> rows, BatchClient& client, StepMeter& meter);

  // Takes out a client's rows. None of its methods is called any more.
  void Leave(const BatchClient& client);

  // A step's time of the batch under way, or of the next. Nothing happens when no rows are here. True when it ended before its time,
  // because the batch looks up next: whoever is admitted now can join it.
  bool Step();

 private:
  static constexpr int64_t kPooledLines = 512;

  struct Member {
    const Lane* lane;
    std::vector<size_t> rows;
    int64_t lines;
    BatchClient* client;
    StepMeter* meter;
  };

  void Begin();   // with running_ and those in waiting_ that fit
  void LookUp();  // the end of an eighth of an open batch
  void Finish();
  void RunApart();
  void Close();                                                   // nobody can join the batch any more
  int64_t Eighth() const { return 1 + model_->arch.layers / 4; }  // of a batch's pieces: the embedding, and two a layer
  static int64_t LinesOf(const std::vector<Member>& members);
  std::vector<size_t> Fitting() const;  // those in waiting_ that fit into the batch beside running_
  const std::shared_ptr<const model::Model> model_;
  const std::string model_name_;
  obs::Metrics& metrics_;
  std::deque<Member> waiting_;       // in order of arrival
  std::vector<Member> running_;      // in the batch under way
  std::unique_ptr<BatchRun> batch_;  // the batch under way
  int64_t lines_ = 0;                // of the batch when it began, also when some have left since
  bool open_ = false;                // it still looks up
  int64_t pieces_ = 0;               // that it has done
  int64_t repeated_ = 0;             // lines times pieces that were done for nothing before it began anew
  bool holds_ = false;               // it is open or began with several runs: their writers hold the results
  StepMeter meter_;                  // of such a batch
};

}  // namespace fluoroscope::run
