#include "engine/resolve_gradients.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "engine/plan_parts.h"
#include "engine/resolve.h"
#include "run/metric_gradient.h"

namespace fluoroscope::engine {
namespace {

std::string Joined(const std::set<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

// The row's metric of this name; its number of metrics when it has none.
size_t MetricOf(const run::RowPlan& row, const std::string& name) {
  const auto same = [&](const run::MetricPlan& metric) { return metric.name == name; };
  return static_cast<size_t>(std::find_if(row.metrics.begin(), row.metrics.end(), same) - row.metrics.begin());
}

// The rows to take gradients of, ascending: those that have the metric.
absl::StatusOr<std::vector<uint32_t>> RowsOf(const api::Capture& capture, PlanDraft& draft, const std::string& field) {
  FS_ASSIGN_OR_RETURN(std::vector<uint32_t> rows, ResolveRows(capture.select.rows, draft.rows(), field + ".select.rows"));
  std::set<std::string> names;
  bool is_there = false;
  for (uint32_t row = 0; row < draft.rows(); ++row)
    for (const run::MetricPlan& metric : draft.row(row).metrics) {
      names.insert(metric.name);
      is_there = is_there || metric.name == capture.gradient_of;
    }
  if (!is_there)
    return absl::InvalidArgumentError(field + ".gradient_of is '" + capture.gradient_of +
                                      "'; it must be one of the request's metrics: " + (names.empty() ? "there are none" : Joined(names)));
  const auto lacks = [&](uint32_t row) { return MetricOf(draft.row(row), capture.gradient_of) == draft.row(row).metrics.size(); };
  if (capture.select.rows.empty()) {
    std::erase_if(rows, lacks);
    return rows;
  }
  for (const uint32_t row : rows)
    if (lacks(row))
      return absl::InvalidArgumentError(field + ".select.rows: row " + std::to_string(row) + " does not have the metric '" +
                                        capture.gradient_of + "'; choose rows that have it, or leave the rows away");
  return rows;
}

// Every name and glob must find a place with a gradient.
absl::Status CheckSites(const api::Selection& select, const PlanDraft& draft, const std::string& field) {
  for (const std::string& site : select.sites) {
    api::Selection one = select;
    one.sites = {site};
    FS_ASSIGN_OR_RETURN(const std::vector<HookPoint> hooks, ResolveSites(draft.model(), one, /*for_edit=*/false, field));
    if (std::any_of(hooks.begin(), hooks.end(), [](const HookPoint& hook) { return model::HasGradient(hook.site); })) continue;
    std::string offered;
    for (const model::SiteSpec& spec : model::Sites())
      if (model::HasGradient(spec.site) && !model::Unavailable(spec.site, draft.arch()))
        offered += (offered.empty() ? "" : ", ") + std::string(spec.name);
    return absl::FailedPreconditionError(field + ": no gradient can be taken at " + site + "; gradients are offered at " + offered);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AddGradients(const api::Capture& capture, uint32_t index, PlanDraft& draft, size_t& tensors) {
  const std::string field = Item("captures", index);
  api::Capture part = capture;
  FS_ASSIGN_OR_RETURN(part.select.rows, RowsOf(capture, draft, field));
  FS_RETURN_IF_ERROR(CheckSites(capture.select, draft, field + ".select"));
  std::vector<size_t> before;
  for (uint32_t row = 0; row < draft.rows(); ++row) before.push_back(draft.row(row).captures.size());
  FS_RETURN_IF_ERROR(AddCapture(part, index, draft, tensors));
  for (const uint32_t index_of_row : part.select.rows) {
    run::RowPlan& row = draft.row(index_of_row);
    const size_t metric = MetricOf(row, capture.gradient_of);
    if (!run::HasGradient(row.metrics[metric].metric))
      return absl::InvalidArgumentError(field + ".gradient_of: '" + capture.gradient_of +
                                        "' is a rank, which has no gradient; all other metrics have one");
    for (size_t i = before[index_of_row]; i < row.captures.size(); ++i) {
      run::CapturePlan& made = row.captures[i];
      if (!model::HasGradient(made.place.site)) continue;  // of a glob
      made.gradient_of = capture.gradient_of;
      row.gradients.push_back({std::move(made), metric});
    }
    row.captures.resize(before[index_of_row]);
  }
  return absl::OkStatus();
}

}  // namespace fluoroscope::engine
