// A plan while it is being made: what the parts of a request (captures, interventions, metrics, logits) share.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "api/plan.h"
#include "engine/handle_values.h"
#include "engine/loaded_model.h"
#include "engine/resolve.h"
#include "run/plan.h"

namespace fluoroscope::engine {

// Belongs to one BuildPlan. The rows are there from the start; the parts add to them.
class PlanDraft {
 public:
  explicit PlanDraft(const LoadedModel& model, RequestHandles handles = {}) : model_(model), handles_(std::move(handles)) {
    plan_.model = model.model;
  }

  void AddRow(std::vector<int64_t> ids, std::optional<run::StartPlan> start = std::nullopt);

  const LoadedModel& model() const { return model_; }
  const model::Architecture& arch() const { return model_.model->arch; }
  size_t rows() const { return plan_.rows.size(); }
  run::RowPlan& row(uint32_t index) { return plan_.rows[index]; }

  // Resolved positions of a row; where the request gives none: all.
  absl::StatusOr<std::vector<int64_t>> PositionsOf(const std::optional<api::Positions>& positions, uint32_t row, const std::string& field);

  // What a selection chooses, hook by hook. Where units are keys, how many there are depends on the row: PlaceOf checks that.
  struct Part {
    HookPoint hook;
    std::vector<int64_t> heads, units;  // ascending, each once; empty: all
  };
  absl::StatusOr<std::vector<Part>> PartsOf(const api::Selection& select, bool for_edit, const std::string& field) const;
  // INVALID_ARGUMENT when the row starts behind a place that a part of it wants.
  absl::Status CheckReached(const HookPoint& hook, uint32_t row, const std::string& field);
  absl::StatusOr<run::Place> PlaceOf(const Part& part, uint32_t row, std::vector<int64_t> positions, const std::string& field);
  // Sizes of what is at a place, axis by axis.
  std::vector<int64_t> ShapeOf(const run::Place& place, uint32_t row);
  // The size of a site's last axis in this row.
  int64_t LastAxis(model::Site site, uint32_t row);

  // The key of a row's value at a place; the same value is kept once however many edits use it.
  absl::StatusOr<size_t> Keep(uint32_t row, const run::Place& place, const std::string& field);
  // The key of a part of a handle, which is read like a kept value.
  absl::StatusOr<size_t> KeepHandle(const StoredHandle& handle, HandlePart part, const std::string& field);
  RequestHandles& handles() { return handles_; }
  // Bytes of tensors that edits hold beyond the request's own.
  void AddGivenBytes(uint64_t bytes) { plan_.given_bytes += bytes; }

  // The key of a row's logits, or log-probabilities.
  absl::StatusOr<size_t> KeepLogits(uint32_t row, const std::vector<int64_t>& positions, bool log_probabilities, const std::string& field);
  // `reader` uses what `source` keeps, and so runs later.
  void ReadsFrom(uint32_t reader, uint32_t source) { sources_[reader].insert(source); }

  // RESOURCE_EXHAUSTED when the request names more than it may.
  absl::Status CountPositions(size_t count, const std::string& field);
  absl::Status CountEdit(const std::string& field);

  void Warn(std::string text) { plan_.warnings.push_back(std::move(text)); }

  // Orders the rows into waves and finishes the plan; the draft is used up.
  absl::StatusOr<run::RunPlan> Finish();

 private:
  const LoadedModel& model_;
  RequestHandles handles_;
  run::RunPlan plan_;
  std::vector<std::set<uint32_t>> sources_;  // by row: the rows it reads from
  std::map<std::tuple<uint32_t, model::Site, int64_t, std::vector<int64_t>, std::vector<int64_t>, std::vector<int64_t>>, size_t> places_;
  std::map<std::tuple<uint32_t, bool, std::vector<int64_t>>, size_t> logits_;
  std::map<std::tuple<std::string, std::vector<int64_t>, std::vector<int64_t>, std::vector<int64_t>>, size_t> handle_parts_;
  size_t edits_ = 0, positions_ = 0;
};

}  // namespace fluoroscope::engine
