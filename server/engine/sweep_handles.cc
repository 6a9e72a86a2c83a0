#include "engine/sweep_handles.h"

#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace fluoroscope::engine {
namespace {

using model::Site;
using HookPoint = std::pair<Site, int64_t>;

std::vector<int64_t> Ascending(const std::set<int64_t>& numbers) { return {numbers.begin(), numbers.end()}; }

// What the cells of a grid change, all together; the same for every pair.
struct Changed {
  std::map<std::string, HookPoint> points;  // by full name
  std::vector<int64_t> heads;               // empty: all, or the sites have none
  std::vector<int64_t> units;               // empty: all

  explicit Changed(const sweep::Grid& grid) {
    std::set<int64_t> layers, of_heads, of_units;
    for (const auto* list : {&grid.layers, &grid.second_layers})
      for (int64_t layer : *list)
        for (int64_t at = layer - grid.window_before; at < layer - grid.window_before + grid.window; ++at)
          if (at >= 0 && at < grid.model_layers) layers.insert(at);
    for (const auto* list : {&grid.heads, &grid.second_heads}) of_heads.insert(list->begin(), list->end());
    for (const std::vector<int64_t>& some : grid.units) of_units.insert(some.begin(), some.end());
    for (Site site : grid.sites)
      for (int64_t layer : layers) points.try_emplace(model::FullName(site, layer), site, layer);
    heads = Ascending(of_heads);
    units = Ascending(of_units);
  }

  std::string Names() const {
    constexpr size_t kShown = 4;
    std::vector<std::string> names;
    for (const auto& [name, _] : points)
      if (names.size() < kShown) names.push_back(name);
    return absl::StrCat(absl::StrJoin(names, ", "), points.size() > kShown ? absl::StrCat(", ... (", points.size(), " in all)") : "");
  }
};

// The handles of one pair.
class OfPair {
 public:
  OfPair(const LoadedModel& model, const Changed& changed, bool maps, sweep::Pair& pair, std::string field)
      : model_(model), changed_(changed), maps_(maps), pair_(pair), field_(std::move(field)) {
    std::set<int64_t> positions;
    for (const std::vector<int64_t>& group : pair.groups)
      for (int64_t position : group)
        if (const int64_t source = pair.source_of[static_cast<size_t>(position)]; source >= 0) positions.insert(source);
    wanted_ = Ascending(positions);
  }

  absl::Status Add(const StoredHandle& handle, const std::string& field) {
    const api::Handle& info = handle->info();
    FS_RETURN_IF_ERROR(CheckHandleWeights(*handle, model_, field));
    const auto found = changed_.points.find(info.site);
    if (found == changed_.points.end())
      return absl::InvalidArgumentError(absl::StrCat(field, ": handle ", info.id, " is of ", info.site,
                                                     ", which no cell of the grid changes; its cells change ", changed_.Names()));
    const auto& [site, layer] = found->second;
    FS_RETURN_IF_ERROR(CheckHandle(*handle, model_, site, layer, /*minus_infinity=*/site == Site::kAttnScores, field));
    FS_RETURN_IF_ERROR(CheckLength(*handle, site, field));
    std::vector<int64_t> units = changed_.units;
    if (units.empty() && IsByKey(site)) {
      units.resize(pair_.base_ids.size());
      std::iota(units.begin(), units.end(), 0);
    }
    if (changed_.units.empty() && IsByKey(site) && info.units.size() > pair_.base_ids.size())
      return absl::InvalidArgumentError(absl::StrCat(field, ": handle ", info.id, " has ", info.units.size(), " key tokens of ", info.site,
                                                     ", and the base prompt has ", pair_.base_ids.size(), "; leave out the others"));
    const std::vector<int64_t>& heads = model::HeadAxis(model::SpecOf(site)) < 0 ? kNone : changed_.heads;
    FS_RETURN_IF_ERROR(PartOf(*handle, model_, site, layer, wanted_, heads, units, field).status());
    const auto [it, is_new] = pair_.given.try_emplace(found->second);
    if (!is_new)
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": handle ", info.id, " is the second one of ", info.site, "; a pair takes one for each hook point"));
    it->second = {ViewOf(handle),
                  {info.positions.begin(), info.positions.end()},
                  {info.heads.begin(), info.heads.end()},
                  {info.units.begin(), info.units.end()},
                  handle->content().sha256};
    return absl::OkStatus();
  }

  absl::Status Complete() const {
    for (const auto& [name, point] : changed_.points)
      if (!pair_.given.contains(point))
        return absl::InvalidArgumentError(absl::StrCat(field_, ": there is no handle of ", name, ", which cells of the grid change (",
                                                       pair_.given.size(), " of ", changed_.points.size(),
                                                       " hook points have one); give it, or narrow the grid with `layers`"));
    return absl::OkStatus();
  }

 private:
  static bool IsByKey(Site site) { return model::SpecOf(site).axes.back() == model::Axis::kKey; }

  // Whether its positions can be those of the base prompt.
  absl::Status CheckLength(const store::Stored& handle, Site site, const std::string& field) const {
    const api::Handle& info = handle.info();
    if (info.row_length == pair_.base_ids.size()) return absl::OkStatus();
    const std::string lengths = absl::StrCat(field, ": handle ", info.id, " comes from a sequence of ", info.row_length,
                                             " tokens, and the base prompt has ", pair_.base_ids.size());
    if (IsByKey(site) && (!info.uploaded || info.units.empty()))
      return absl::InvalidArgumentError(
          absl::StrCat(lengths, "; ", info.site, " has one entry per key token, so both must be equally long"));
    if (maps_ || info.uploaded) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(lengths, "; give source_positions, which says for each base position where in that ",
                                                   "sequence its value comes from"));
  }

  inline static const std::vector<int64_t> kNone;

  const LoadedModel& model_;
  const Changed& changed_;
  const bool maps_;  // the request says which position goes where
  sweep::Pair& pair_;
  const std::string field_;
  std::vector<int64_t> wanted_;  // positions in the handles' sequence
};

}  // namespace

absl::Status ResolveSourceHandles(const LoadedModel& model, const api::SweepRequest& request, RequestHandles& handles,
                                  sweep::SweepPlan& plan) {
  const Changed changed(plan.grid);
  for (size_t i = 0; i < request.pairs.size(); ++i) {
    const api::SweepPair& pair = request.pairs[i];
    if (pair.source_handles.empty()) continue;
    const std::string field = absl::StrCat("pairs[", i, "].source_handles");
    OfPair made(model, changed, pair.source_positions.has_value(), plan.pairs[i], field);
    for (size_t h = 0; h < pair.source_handles.size(); ++h) {
      const std::string at = absl::StrCat(field, "[", h, "]");
      FS_ASSIGN_OR_RETURN(const StoredHandle handle, handles.Find(pair.source_handles[h], at));
      FS_RETURN_IF_ERROR(made.Add(handle, at));
    }
    FS_RETURN_IF_ERROR(made.Complete());
  }
  return absl::OkStatus();
}

}  // namespace fluoroscope::engine
