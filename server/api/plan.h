// What to run, as data: the domain types behind proto/fluoroscope/v1/plan.proto, which documents the meaning of every field.
// `rpc/` decodes requests into these; `engine/` resolves them (names, tokens, positions) into a run plan. Plain values, no behaviour.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "api/tensor.h"

namespace fluoroscope::api {

enum class Bos { kDefault, kAlways, kNever };

using TokenIds = std::vector<int64_t>;

// A row that begins in the middle of the model.
struct Activations {
  std::string start_at;
  Chunk value;         // f32 [positions, d_model]; rpc/ has checked dtype and finiteness
  TokenIds token_ids;  // one per position, or empty
};

struct Prompt {
  std::variant<std::string, TokenIds, Activations> input;
  Bos bos = Bos::kDefault;  // text only; rpc/ refuses it together with the others
  bool parse_special_tokens = false;
};

// A token by id or by a string that must encode to exactly one token.
using TokenRef = std::variant<int64_t, std::string>;

struct AllPositions {};
struct LastPosition {};
struct PositionRange {
  std::optional<int64_t> start;  // inclusive; negative counts from the end
  std::optional<int64_t> end;    // exclusive
};
struct OccurrencesOf {
  TokenRef token;
};
struct GeneratedPositions {};  // only where something is generated
using PositionItem = std::variant<AllPositions, LastPosition, int64_t, PositionRange, OccurrencesOf, GeneratedPositions>;
// The union of the items. Never empty: "absent" is an empty optional<Positions>.
using Positions = std::vector<PositionItem>;

struct Selection {
  std::vector<std::string> sites;  // exact names or globs; at least one
  std::vector<int32_t> layers;     // empty: all; negative from the last layer
  std::optional<Positions> positions;
  std::vector<uint32_t> heads;  // empty: all
  std::vector<uint32_t> rows;   // empty: all
  std::vector<uint32_t> units;  // indices of the last axis; empty: all
};

struct ReduceLast {};
struct ReduceTopK {
  uint32_t k = 0;
};
struct ReduceDot {
  Chunk directions;  // f32 [n, size of the last axis]; rpc/ has checked dtype, size and finiteness
};
struct ReduceLens {
  uint32_t top_k = 0;
  std::vector<TokenRef> tokens;  // instead of top_k
};
struct ReduceWrites {
  Chunk directions;  // f32 [n, d_model]; rpc/ has checked dtype, size and finiteness
  uint32_t top_k = 0;
};
using Reduction = std::variant<std::monostate, ReduceLast, ReduceTopK, ReduceDot, ReduceLens, ReduceWrites>;

struct Capture {
  Selection select;
  Reduction reduction;
  uint32_t keep_seconds = 0;  // > 0: stays on the server for so long, and the reply has a handle. Only in a Forward
  // Not empty: instead of values, the gradients of the metric of this name. Only in a Forward, without handles, lenses and writes
  std::string gradient_of = {};
};

// What a handle holds, in place of a tensor that is given.
struct HandleValues {
  std::string id;                      // empty: none
  std::optional<Positions> positions;  // in the sequence its values came from; absent: all it has
};

struct CopyFromRow {
  uint32_t row = 0;
  std::optional<Positions> positions;  // in the source row; absent: the target's
  std::string handle = {};             // not empty: the source, instead of `row`
};

struct Zero {};

struct MeanOfRows {
  std::vector<uint32_t> rows;          // at least one, or none and a handle
  std::optional<Positions> positions;  // absent: all
  std::string handle = {};
};

// A tensor given with an intervention: rpc/ has checked that it is f32 and finite, engine/ that it fits the selection.
struct Set {
  Chunk value;
  HandleValues handle = {};  // instead of `value`
};

struct Add {
  Chunk value;
  double scale = 1;
  HandleValues handle = {};  // instead of `value`
};

struct Scale {
  double factor = 1;
};

struct Interpolate {
  CopyFromRow source;
  double weight = 0;
};

struct Resample {
  std::vector<uint32_t> rows;
  uint64_t seed = 0;
  std::optional<Positions> positions;  // in the source row; absent: the target's
};

struct ProjectOut {
  Chunk directions;  // f32 [n, chosen units]; rpc/ has checked dtype and finiteness
};

struct SwapSubspace {
  enum class Part { kWhole, kRowSpace, kNullSpace };
  CopyFromRow source;
  Chunk directions;
  Part part = Part::kWhole;
};

struct Noise {
  double stddev = 0;
  uint64_t seed = 0;
};

struct Intervention {
  Selection select;
  // A mean that the client gives is a Set.
  std::variant<CopyFromRow, Zero, MeanOfRows, Set, Add, Scale, Interpolate, Resample, ProjectOut, SwapSubspace, Noise> kind;
};

struct LogitDifference {
  std::vector<TokenRef> right;
  std::vector<TokenRef> wrong;
};

struct MeanLogit {
  std::vector<TokenRef> tokens;
};

struct Probability {
  std::vector<TokenRef> tokens;
  bool logarithm = false;
};

struct CrossEntropy {
  std::optional<TokenRef> token;  // absent: the row's own next token
};

struct ToReference {
  enum class Measure { kKl, kJs, kL2 };
  Measure measure = Measure::kKl;
  uint32_t row = 0;
  std::optional<Positions> positions;  // in the reference row; absent: the row's
};

struct Rank {
  TokenRef token;
};

struct ReadOut {
  std::string site;
  Chunk direction;  // f32 [size of the last axis], finite
  std::optional<uint32_t> head;
};

struct Metric {
  std::string name;
  std::vector<uint32_t> rows;
  std::optional<Positions> positions;  // absent: last, or all with a next token
  std::variant<LogitDifference, MeanLogit, Probability, CrossEntropy, ToReference, Rank, ReadOut> kind;
};

struct LogitsRequest {
  std::optional<Positions> positions;  // absent: last
  std::vector<TokenRef> tokens;        // empty: all columns
  uint32_t top_k = 0;
  std::vector<uint32_t> rows;
};

struct ForwardRequest {
  std::string model;
  std::vector<Prompt> prompts;
  std::vector<Capture> captures;
  std::vector<Intervention> interventions;
  std::vector<Metric> metrics;
  std::optional<LogitsRequest> logits;
  bool isolated = false;
};

}  // namespace fluoroscope::api
