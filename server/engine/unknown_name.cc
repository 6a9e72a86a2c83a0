#include "engine/unknown_name.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/edit_distance.h"
#include "model/sites.h"

namespace fluoroscope::engine {
namespace {

constexpr size_t kMostSuggested = 3;
constexpr size_t kLongestName = 64;  // what is longer is no misspelt hook name
constexpr std::string_view kBlocks = "blocks.";

// A name as it is written: "blocks.LAYER.site", or a site alone. `number` is nothing when LAYER is no number.
struct Written {
  bool in_block = false;
  std::optional<int64_t> number;
  std::string_view site;
};

Written Read(std::string_view name) {
  if (!name.starts_with(kBlocks)) return {false, std::nullopt, name};
  const size_t dot = name.find('.', kBlocks.size());
  if (dot == std::string_view::npos) return {true, std::nullopt, ""};
  const std::string_view layer = name.substr(kBlocks.size(), dot - kBlocks.size());
  Written written{true, std::nullopt, name.substr(dot + 1)};
  int64_t number = 0;
  const auto [end, error] = std::from_chars(layer.data(), layer.data() + layer.size(), number);
  if (error == std::errc() && end == layer.data() + layer.size()) written.number = number;
  return written;
}

// "attn.hook_pattern" without "hook_", which all names share; and without what stands in front.
std::string Bare(std::string_view site) {
  const size_t hook = site.find("hook_");
  return hook == std::string_view::npos ? std::string(site) : std::string(site.substr(0, hook)) + std::string(site.substr(hook + 5));
}
std::string Last(const std::string& bare) { return bare.substr(bare.rfind('.') + 1); }

// Sites whose names are like this one, the nearest first.
std::vector<const model::SiteSpec*> Nearest(const LoadedModel& model, std::string_view site) {
  std::vector<std::pair<size_t, const model::SiteSpec*>> near;
  if (site.empty() || site.size() > kLongestName) return {};
  const std::string bare = Bare(site);
  const size_t limit = bare.size() / 3;
  for (const model::SiteSpec& spec : model::Sites()) {
    if (model::Unavailable(spec.site, model.model->arch)) continue;
    const std::string known = Bare(spec.name);
    const size_t distance =
        std::min({EditDistance(bare, known), EditDistance(bare, Last(known)), Last(bare) == Last(known) ? size_t{1} : kLongestName});
    if (distance <= std::max<size_t>(limit, Last(bare) == Last(known) ? 1 : 0)) near.emplace_back(distance, &spec);
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::erase_if(near, [best = near.empty() ? 0 : near.front().first](const auto& one) { return one.first > best + 1; });
  if (near.size() > kMostSuggested) near.resize(kMostSuggested);
  std::vector<const model::SiteSpec*> sites;
  for (const auto& [distance, spec] : near) sites.push_back(spec);
  return sites;
}

bool IsSite(std::string_view name, bool in_block) {
  const auto& sites = model::Sites();
  return std::any_of(sites.begin(), sites.end(),
                     [&](const model::SiteSpec& spec) { return spec.in_block == in_block && spec.name == name; });
}

}  // namespace

absl::Status UnknownName(const LoadedModel& model, const std::string& name, const std::string& field) {
  const int64_t layers = model.model->arch.layers;
  const Written written = Read(name);
  const auto refuse = [&](const std::string& what) { return absl::NotFoundError(field + ": no hook point '" + name + "'" + what); };
  const std::string ours = model.name + " has layers 0 to " + std::to_string(layers - 1), site(written.site);
  if (const Written inner = Read(site); written.in_block && inner.in_block)
    return refuse(": it has a layer, '" + site + "', where the name of a site of the blocks is wanted, such as '" +
                  (inner.site.empty() ? "hook_resid_pre" : std::string(inner.site)) + "'; the layers are given apart from it");
  if (written.number && *written.number < 0) {
    const int64_t meant = *written.number + layers;
    const std::string number = std::to_string(*written.number);
    return refuse(": a name counts layers from 0, and " + ours +
                  (meant >= 0 ? "; layer " + number + " is 'blocks." + std::to_string(meant) + "." + site + "'" : "") +
                  ". Negative layers are written apart from the name: layers [" + number + "] of 'blocks.*." + site + "'");
  }
  const bool outside = written.number && *written.number >= layers;
  if (outside && IsSite(site, true)) return refuse(": " + ours);
  std::string nearest;
  for (const model::SiteSpec* spec : Nearest(model, site)) {
    const std::string layer = written.number && !outside ? std::to_string(*written.number) : "{layer}";
    nearest += (nearest.empty() ? "'" : ", '") + (spec->in_block ? "blocks." + layer + "." : "") + std::string(spec->name) + "'";
  }
  if (!nearest.empty()) return refuse("; did you mean " + nearest + "? " + ours);
  std::string known;
  for (const model::SiteSpec& spec : model::Sites())
    if (!model::Unavailable(spec.site, model.model->arch)) known += (known.empty() ? "" : ", ") + std::string(spec.name);
  return refuse(". In the blocks ('blocks.{layer}.' in front) and outside there are: " + known);
}

}  // namespace fluoroscope::engine
