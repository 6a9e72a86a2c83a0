// Patching sweeps, as data: the domain types behind proto/fluoroscope/v1/patching.proto, which documents the meaning of every field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "api/plan.h"
#include "api/results.h"
#include "api/sink.h"

namespace fluoroscope::api {

struct SweepPair {
  std::optional<Prompt> clean, corrupt;  // the source prompt may be absent where handles give the values
  // By position of the base prompt: the source position whose value goes there, -1 for none. Absent: the same position.
  std::optional<std::vector<int32_t>> source_positions;
  std::vector<std::string> source_handles;  // ids; what cells copy, instead of the source run's values
};

enum class SweepDirection { kDenoise, kNoise };
// kReceiver and kSender: of path patching only.
enum class SweepAxis { kSite, kLayer, kPosition, kHead, kUnit, kReceiver, kSender, kSecondLayer, kSecondHead };
enum class SweepCell { kPatch, kZero, kMean, kResample };

// Positions that are changed together: one place on the position axis.
struct SweepGroup {
  std::string name;
  std::vector<Positions> positions;  // one per pair, or one for all
};

// Cells of which another run gives other values too: those whose values are farthest from the base run's, and others at random.
struct CellChoice {
  uint32_t top = 0, random = 0;
  uint64_t seed = 0;
};

struct SweepRequest {
  std::string model;
  std::vector<SweepPair> pairs;
  SweepDirection direction = SweepDirection::kDenoise;
  SweepCell cell = SweepCell::kPatch;
  std::vector<std::string> sites;  // without the layer: "hook_resid_pre", "attn.hook_z"
  std::vector<SweepAxis> over;
  std::vector<int32_t> layers;                      // empty: all
  std::vector<uint32_t> heads;                      // empty: all
  std::vector<int32_t> second_layers;               // of the second place; empty: as layers
  std::vector<uint32_t> second_heads;               // likewise
  std::optional<Positions> positions;               // absent: all
  std::vector<SweepGroup> groups;                   // instead of positions
  std::vector<uint32_t> units;                      // empty: all
  uint32_t unit_block = 1;                          // adjacent units that are one place on their axis
  std::vector<Prompt> references;                   // of kMean and kResample; empty: the pairs' own source prompts
  uint64_t seed = 0;                                // of kResample
  uint32_t window = 1;                              // adjacent layers changed together
  uint32_t window_before = 0;                       // so many of them in front of the cell's own
  std::vector<Metric> metrics;                      // `rows` are pairs; the same name may come several times for different pairs
  std::vector<Intervention> corrupt_interventions;  // of the corrupt prompts' own runs; rows are pairs
  // Absent: the model's own numbers. Else products in bfloat16, and these cells also in the model's.
  std::optional<CellChoice> fast;
};

// One axis of the result, with what its places are called.
struct SweepAxisInfo {
  SweepAxis axis = SweepAxis::kLayer;
  std::vector<std::string> labels;
};

struct SweepCost {
  uint64_t cells = 0;         // of all pairs
  uint64_t filled_cells = 0;  // the base run itself: nothing they change differs from it
  double flops = 0;           // of what is run
  double forwards_flops = 0;  // of one whole forward for each cell
  uint64_t peak_bytes = 0;
  uint64_t budget_bytes = 0;
};

struct SweepHeader {
  Provenance provenance;
  std::vector<RowInfo> clean, corrupt;  // one per pair
  std::vector<std::string> metrics;
  std::vector<SweepAxisInfo> axes;  // in the order of the result's axes
  SweepCost cost;
  std::string convention;  // of attributions and path patching
};

// Finished cells of one pair, with one value per metric each.
struct SweepCells {
  uint32_t pair = 0;
  std::vector<uint32_t> cells;  // row-major index over the axes
  std::vector<double> values;   // [cells, metrics]
};

// What the metrics say without any change.
struct SweepReference {
  uint32_t pair = 0;
  std::vector<double> base, source;  // one per metric; `source` is empty without a source prompt
};

struct SweepSummary {
  std::vector<std::string> warnings;
  double queue_ms = 0, run_ms = 0;
  uint64_t tokens = 0;  // positions run through their first layer
  uint64_t peak_bytes = 0;
};

// Of attributions: what the metrics really are in some cells.
struct ExactCells {
  SweepCells cells;
};

// Of attributions: estimates beside exact values.
struct AttributionCheck {
  struct OfMetric {
    std::optional<double> spearman;
    double precision = 0;
    uint32_t top = 0;
  };
  std::vector<uint32_t> cells;  // those that were run, ascending
  std::vector<OfMetric> metrics;
};

// Of fast sweeps: how far they were off in the cells that were run again.
struct PrecisionCheck {
  std::vector<uint32_t> cells;             // ascending
  std::vector<double> largest_difference;  // by metric
  std::vector<double> largest_change;      // by metric: of an exact value from the exact base run's
  double run_ms = 0;                       // of the exact run
};

using SweepPart = std::variant<SweepHeader, SweepReference, SweepCells, SweepSummary, ExactCells, AttributionCheck, PrecisionCheck>;
using SweepSink = Sink<SweepPart>;

}  // namespace fluoroscope::api
