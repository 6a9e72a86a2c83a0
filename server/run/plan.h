// A run, resolved: every name, glob, token and position of a request has become a number, per row. Made by engine/, executed by this
// folder.
#pragma once

#include <ATen/ATen.h>

#include <compare>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "intervention/edit.h"
#include "intervention/metrics.h"
#include "model/kv_prefix.h"
#include "model/model.h"
#include "model/sites.h"

namespace fluoroscope::run {

// A point in the forward pass; parts outside the blocks have layer -1 (before) or the number of layers (behind).
struct Point {
  int64_t layer = -1;
  model::Part part = model::Part::kEmbedding;
  auto operator<=>(const Point&) const = default;
};

// A site of one row, at some positions, heads and units.
struct Place {
  model::Site site = model::Site::kResidPre;
  int64_t layer = 0;               // 0 for sites outside the blocks
  std::vector<int64_t> positions;  // absolute, ascending, at least one
  std::vector<int64_t> heads;      // empty: all, or the site has none
  std::vector<int64_t> units;      // indices of the last axis; empty: all
};

// What the final norm and the unembedding make of a value: the best tokens or some columns.
struct LensPlan {
  int64_t top_k = 0;
  std::vector<int64_t> columns;  // instead of top_k
};

// What units write along directions.
struct WritesPlan {
  at::Tensor directions;  // f32 [n, d_model]
  at::Tensor out;         // [d_model, d_mlp], the layer's own weights
  int64_t top_k = 0;      // > 0: only the k largest by magnitude
};

struct CapturePlan {
  Place place;
  uint32_t index = 0;     // of the capture in the request
  int64_t top_k = 0;      // > 0: only the k largest of the last axis
  at::Tensor directions;  // f32 [n, last axis] when only the products with them are wanted, else undefined
  std::optional<LensPlan> lens;
  std::optional<WritesPlan> writes;
  uint32_t keep_seconds = 0;     // > 0: goes to the run's keeper instead of the reply
  std::string gradient_of = {};  // not empty: it is not the value but the gradient of this metric

  bool reduced() const { return top_k > 0 || directions.defined() || lens || writes; }
};

// A value another row needs.
struct KeepPlan {
  Place place;
  size_t key = 0;  // index into the run's kept values
};

// A value that was there before the run, for edits to read as if a row had kept it. Nobody writes to it.
struct GivenPlan {
  at::Tensor value;     // on the CPU
  Place part;           // what of it: its positions are indices along the position axis, heads and units along theirs; empty ones: all
  size_t key = 0;       // index into the run's kept values
  uint64_t bytes = 0;   // of the part
  std::string content;  // SHA-256 of the whole value, for the plan's hash
};

struct EditPlan {
  Place place;
  intervention::Edit edit;
};

struct LogitsPlan {
  std::vector<int64_t> positions;  // absolute, ascending
  std::vector<int64_t> columns;    // empty: the whole vocabulary
  int64_t top_k = 0;               // > 0: instead of logits
};

// Logits that other rows are compared with: f32 [positions, vocabulary].
struct KeepLogitsPlan {
  std::vector<int64_t> positions;
  bool log_probabilities = false;  // else logits
  size_t key = 0;                  // index into the run's kept values
};

struct MetricPlan {
  std::string name;
  std::vector<int64_t> positions;
  intervention::Metric metric;
};

// A row inside whose run other rows begin. Its values at all its positions, kept under these keys.
struct TrunkPlan {
  size_t row = 0;                            // its index; it computes all its positions
  std::vector<size_t> k, v;                  // by layer; k as the scores read it
  std::vector<size_t> resid_pre, resid_mid;  // by layer, where a row begins there, else kNotKept
  std::vector<size_t> attn_out, mlp_out;     // by layer, where a row is frozen there, else kNotKept; empty: nowhere
  static constexpr size_t kNotKept = static_cast<size_t>(-1);
};

// A row that begins in the middle of another's run, because up to there it is the same: at this point, with only its positions from
// `first` on. Those in front are the trunk's; it sees their keys and values. Everything it reads, edits and keeps lies behind. One that
// begins with its embedding may be in the trunk's own wave: they then run in one batch, layer by layer side by side.
struct ForkPlan {
  size_t trunk = 0;  // index into RunPlan::trunks
  Point at;          // kAttention: it begins with hook_resid_pre; kMlp: with hook_resid_mid; Point{}: with the embedding of its own tokens
  int64_t first = 0;
};

// Parts of layers that a row does not compute: there it adds to its residual what the trunk's run added. Where attention is frozen it has
// no keys and values, and positions do not meet. Of such a layer hook_q, hook_k and hook_v can still be read (what the heads would have
// read), and hook_mlp_in where the MLP is frozen.
struct FreezePlan {
  size_t trunk = 0;                  // index into RunPlan::trunks; a forked row's is its own
  std::vector<bool> attention, mlp;  // by layer
};

// Positions at the front of a row that are not computed because their keys and values are known: it begins with its embedding, but only
// with the positions behind them. Everything it reads and edits lies there.
struct PrefixPlan {
  std::shared_ptr<const model::KvPrefix> kv;  // at least `size` positions
  int64_t size = 0;
};

// A row that begins in the middle with values that somebody gave, all its positions at once.
struct StartPlan {
  Point at;          // as in ForkPlan
  at::Tensor value;  // f32 [length, d_model]
};

// The id at positions of a row that begins with values and without tokens.
inline constexpr int64_t kNoToken = -1;

// The gradient of a row's metric in what it has at a place; of the sum over the metric's positions.
struct GradientPlan {
  CapturePlan capture;  // of the gradient, which is float32
  size_t metric = 0;    // index into the row's metrics
};

struct RowPlan {
  uint32_t index = 0;              // of the prompt in the request
  std::optional<uint32_t> sample;  // of a row that is generated
  std::vector<int64_t> ids;
  // At most one of these; without, it begins with its embedding.
  std::optional<ForkPlan> fork;
  std::optional<StartPlan> start;
  std::optional<PrefixPlan> prefix;
  std::optional<FreezePlan> freeze;
  std::vector<CapturePlan> captures;
  std::vector<KeepPlan> keeps;
  std::vector<KeepLogitsPlan> keep_logits;
  std::vector<EditPlan> edits;  // in the order given
  std::optional<LogitsPlan> logits;
  std::vector<MetricPlan> metrics;
  std::vector<GradientPlan> gradients;  // taken in passes of their own, behind all batches

  // The last point somebody needs; the row leaves its batch behind it. Set by Finish().
  Point stop;
  // In the last layer it enters, only these positions go past keys and values. Set by Finish().
  std::vector<int64_t> last_positions;

  int64_t length() const { return static_cast<int64_t>(ids.size()); }
  int64_t first() const { return fork ? fork->first : prefix ? prefix->size : 0; }
  // Where it joins its batch; absent: with its embedding.
  std::optional<Point> joins() const {
    if (fork) return fork->at == Point{} ? std::nullopt : std::optional(fork->at);
    return start ? std::optional(start->at) : std::nullopt;
  }
  int64_t lines() const { return length() - first(); }  // how many of its positions are computed
  bool frozen(int64_t layer, model::Part part) const {
    return freeze && (part == model::Part::kMlp ? freeze->mlp : freeze->attention)[static_cast<size_t>(layer)];
  }
  bool reads_logits() const { return logits.has_value() || !metrics.empty() || !keep_logits.empty(); }
};

struct RunPlan {
  std::shared_ptr<const model::Model> model;
  std::vector<RowPlan> rows;
  std::vector<TrunkPlan> trunks;
  // Rows (indices) by wave: a row that others copy from runs in an earlier wave than they do.
  std::vector<std::vector<size_t>> waves;
  std::vector<GivenPlan> given;
  uint64_t given_bytes = 0;  // of tensors that edits were given, beyond what requests hold themselves
  size_t kept_values = 0;
  bool isolated = false;
  // The run stops when more bytes than these are unsent, until its sink wants more. Without such a sink, everything may be unsent at once.
  int64_t buffer_bytes = std::numeric_limits<int64_t>::max();
  std::vector<std::string> warnings;  // for the summary

  // Derives `stop` and `last_positions` of each row from what is read of it. Call once, when the rows are complete.
  void Finish();

  // Each batch: indices of rows of one wave that run together, rows of equal length and first position side by side. A row that begins
  // behind what it shares with a trunk of its wave is in that trunk's batch. Batches are in the order in which they run.
  std::vector<std::vector<size_t>> Batches() const;
};

// A batch takes rows until it computes this many positions: enough to feed the matrix products, little enough that one part of a layer
// takes about 10 ms.
inline constexpr int64_t kBatchTokens = 1024;

// Positions whose whole logits are computed in one step: 128 of them with 49,152 tokens of 576 numbers are 7 GFLOP, about 20 ms on two
// cores.
inline constexpr int64_t kPositionsPerStep = 128;

}  // namespace fluoroscope::run
