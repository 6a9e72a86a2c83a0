#include "engine/sweep_grid.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/resolve.h"

namespace fluoroscope::engine {
namespace {

using api::SweepAxis;

std::string Item(const std::string& field, size_t index) { return field + "[" + std::to_string(index) + "]"; }

// Makes the part of a grid that only the model says something about.
class GridMaker {
 public:
  GridMaker(const LoadedModel& model, const api::SweepRequest& request) : model_(model), request_(request), arch_(model.model->arch) {}

  absl::StatusOr<sweep::Grid> Make() {
    grid_.axes = request_.over;
    grid_.model_layers = arch_.layers;
    FS_RETURN_IF_ERROR(Sites());
    FS_RETURN_IF_ERROR(Layers());
    FS_RETURN_IF_ERROR(Heads());
    FS_RETURN_IF_ERROR(SecondPlace());
    return std::move(grid_);
  }

 private:
  absl::Status Sites() {
    for (size_t i = 0; i < request_.sites.size(); ++i) {
      const std::string& name = request_.sites[i];
      const std::string field = Item("sites", i);
      // The general resolution says what is wrong with a name, and refuses what this model does not have or cannot be trusted.
      api::Selection select;
      select.sites = {"blocks.0." + name};
      FS_ASSIGN_OR_RETURN(const std::vector<HookPoint> found, ResolveSites(model_, select, /*for_edit=*/true, field));
      if (found.size() != 1)
        return absl::InvalidArgumentError(field + ": '" + name +
                                          "' is not one site; name a site of the blocks without its layer, such as 'hook_resid_pre'");
      grid_.sites.push_back(found.front().site);
    }
    if (grid_.sites.size() > 1 && !IsOver(request_, SweepAxis::kSite))
      return absl::InvalidArgumentError("sites has " + std::to_string(grid_.sites.size()) +
                                        " entries; several sites need 'site' in `over`");
    return absl::OkStatus();
  }

  // Ascending, each once; all when none is given.
  absl::StatusOr<std::vector<int64_t>> LayersOf(const std::vector<int32_t>& given, const std::string& field) const {
    std::set<int64_t> layers;
    for (int32_t layer : given) {
      const int64_t absolute = layer < 0 ? layer + arch_.layers : layer;
      if (absolute < 0 || absolute >= arch_.layers)
        return absl::InvalidArgumentError(field + ": " + std::to_string(layer) + " is outside; " + model_.name + " has layers 0 to " +
                                          std::to_string(arch_.layers - 1) + " (or -" + std::to_string(arch_.layers) + " to -1)");
      layers.insert(absolute);
    }
    for (int64_t layer = 0; given.empty() && layer < arch_.layers; ++layer) layers.insert(layer);
    return std::vector<int64_t>(layers.begin(), layers.end());
  }

  absl::Status Layers() {
    FS_ASSIGN_OR_RETURN(grid_.layers, LayersOf(request_.layers, "layers"));
    grid_.window = request_.window;
    grid_.window_before = request_.window_before;
    if (request_.window_before >= request_.window)
      return absl::InvalidArgumentError("window_before is " + std::to_string(request_.window_before) + "; with a window of " +
                                        std::to_string(request_.window) + " layers it must be less");
    if (request_.window > 1 && !IsOver(request_, SweepAxis::kLayer))
      return absl::InvalidArgumentError("window is " + std::to_string(request_.window) + ", but 'layer' is not in `over`");
    if (request_.window > arch_.layers)
      return absl::InvalidArgumentError("window is " + std::to_string(request_.window) + "; " + model_.name + " has " +
                                        std::to_string(arch_.layers) + " layers");
    return absl::OkStatus();
  }

  absl::Status Heads() {
    if (!IsOver(request_, SweepAxis::kHead) && request_.heads.empty()) return absl::OkStatus();
    int64_t count = -1;
    for (size_t i = 0; i < grid_.sites.size(); ++i) {
      const model::SiteSpec& spec = model::SpecOf(grid_.sites[i]);
      const int axis = model::HeadAxis(spec);
      if (axis < 0) return absl::InvalidArgumentError(Item("sites", i) + ": " + std::string(spec.name) + " has no head axis");
      const int64_t heads = model::SizeOf(spec.axes[static_cast<size_t>(axis)], arch_);
      if (count >= 0 && heads != count)
        return absl::InvalidArgumentError("the sites have " + std::to_string(count) + " and " + std::to_string(heads) +
                                          " heads; sweep them one at a time (k and v have key-value heads)");
      count = heads;
      FS_ASSIGN_OR_RETURN(grid_.heads, ResolveHeads(model_, request_.heads, {grid_.sites[i], 0}, "heads"));
    }
    if (grid_.heads.empty()) {
      grid_.heads.resize(static_cast<size_t>(count));
      std::iota(grid_.heads.begin(), grid_.heads.end(), 0);
    }
    return absl::OkStatus();
  }

  // Of cells that change two places: both have the same axes, so that what is called the first place does not matter.
  absl::Status SecondPlace() {
    bool two = false;
    for (const auto& [first, second, name] :
         {std::tuple(SweepAxis::kLayer, SweepAxis::kSecondLayer, "layer"), std::tuple(SweepAxis::kHead, SweepAxis::kSecondHead, "head")}) {
      if (IsOver(request_, second) && !IsOver(request_, first))
        return absl::InvalidArgumentError(
            absl::StrCat("over: 'second_", name, "' is there without '", name, "'; of two places both have it"));
      two = two || IsOver(request_, second);
    }
    const bool by_layer = IsOver(request_, SweepAxis::kSecondLayer), by_head = IsOver(request_, SweepAxis::kSecondHead);
    if (two && (IsOver(request_, SweepAxis::kLayer) != by_layer || IsOver(request_, SweepAxis::kHead) != by_head))
      return absl::InvalidArgumentError(absl::StrCat("over: cells change two places, and '", by_layer ? "head" : "layer",
                                                     "' is an axis of the first only; add 'second_", by_layer ? "head'" : "layer'"));
    if (!request_.second_layers.empty() && !by_layer)
      return absl::InvalidArgumentError("second_layers is given, but 'second_layer' is not in `over`");
    if (!request_.second_heads.empty() && !by_head)
      return absl::InvalidArgumentError("second_heads is given, but 'second_head' is not in `over`");
    if (!two) return absl::OkStatus();
    grid_.second_layers = grid_.layers;
    grid_.second_heads = grid_.heads;
    if (!request_.second_layers.empty()) {
      FS_ASSIGN_OR_RETURN(grid_.second_layers, LayersOf(request_.second_layers, "second_layers"));
    }
    if (!request_.second_heads.empty()) {
      FS_ASSIGN_OR_RETURN(grid_.second_heads, ResolveHeads(model_, request_.second_heads, {grid_.sites.front(), 0}, "second_heads"));
    }
    return absl::OkStatus();
  }

  const LoadedModel& model_;
  const api::SweepRequest& request_;
  const model::Architecture& arch_;
  sweep::Grid grid_;
};

}  // namespace

bool IsOver(const api::SweepRequest& request, SweepAxis axis) {
  return std::find(request.over.begin(), request.over.end(), axis) != request.over.end();
}

absl::StatusOr<sweep::Grid> ResolveGrid(const LoadedModel& model, const api::SweepRequest& request) {
  return GridMaker(model, request).Make();
}

absl::Status ResolveUnitAxis(const LoadedModel& model, const api::SweepRequest& request, const std::vector<sweep::Pair>& pairs,
                             sweep::Grid& grid) {
  const bool over = IsOver(request, SweepAxis::kUnit);
  if (request.unit_block > 1 && !over) return absl::InvalidArgumentError("unit_block is given, but 'unit' is not in `over`");
  if (!over && request.units.empty()) return absl::OkStatus();
  // How many there are, which sites and pairs must agree on.
  int64_t count = -1;
  for (const model::Site site : grid.sites) {
    const model::Axis last = model::SpecOf(site).axes.back();
    for (const sweep::Pair& pair : pairs) {
      const int64_t here = last == model::Axis::kKey ? static_cast<int64_t>(pair.base_ids.size()) : model::SizeOf(last, model.model->arch);
      if (count >= 0 && here != count)
        return absl::InvalidArgumentError("units: the last axis has " + std::to_string(count) + " and " + std::to_string(here) +
                                          " entries in the sites and prompts of this sweep; sweep them one at a time");
      count = here;
    }
  }
  std::vector<int64_t> units(request.units.begin(), request.units.end());
  std::sort(units.begin(), units.end());
  units.erase(std::unique(units.begin(), units.end()), units.end());
  if (!units.empty() && units.back() >= count)
    return absl::InvalidArgumentError("units: unit " + std::to_string(units.back()) + " does not exist; there are units 0 to " +
                                      std::to_string(count - 1));
  if (units.empty()) {
    units.resize(static_cast<size_t>(count));
    std::iota(units.begin(), units.end(), 0);
  }
  const size_t block = over ? request.unit_block : units.size();
  for (size_t at = 0; at < units.size(); at += block)
    grid.units.emplace_back(units.begin() + static_cast<int64_t>(at),
                            units.begin() + static_cast<int64_t>(std::min(at + block, units.size())));
  return absl::OkStatus();
}

}  // namespace fluoroscope::engine
