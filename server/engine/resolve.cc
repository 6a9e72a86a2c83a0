#include "engine/resolve.h"

#include <algorithm>
#include <set>

#include "base/status_macros.h"
#include "engine/unknown_name.h"

namespace fluoroscope::engine {
namespace {

std::string Quote(const std::string& text) { return "'" + text + "'"; }

bool IsGlob(const std::string& name) { return name.find_first_of("*?") != std::string::npos; }

absl::StatusOr<std::set<int64_t>> ResolveLayers(const LoadedModel& model, const std::vector<int32_t>& layers, const std::string& field) {
  const int64_t count = model.model->arch.layers;
  std::set<int64_t> out;
  for (int32_t layer : layers) {
    const int64_t absolute = layer < 0 ? layer + count : layer;
    if (absolute < 0 || absolute >= count)
      return absl::InvalidArgumentError(field + ".layers: " + std::to_string(layer) + " is outside; " + model.name + " has layers 0 to " +
                                        std::to_string(count - 1) + " (or -" + std::to_string(count) + " to -1)");
    out.insert(absolute);
  }
  return out;
}

// " (' Bob')": a token's text behind its id, where there is a tokenizer.
std::string TextOf(const LoadedModel& model, int64_t id) {
  return model.tokenizer == nullptr ? "" : " (" + Quote(model.tokenizer->TokenText(id)) + ")";
}

// Why a matched hook point cannot be used; empty when it can.
std::string WhyNot(const LoadedModel& model, model::Site site, bool for_edit) {
  if (auto why = model::Unavailable(site, model.model->arch)) return *why;
  if (for_edit && !model::SpecOf(site).editable) return "this site can be read but not edited";
  return "";
}

absl::StatusOr<int64_t> AbsolutePosition(int64_t position, int64_t length, const std::string& field) {
  const int64_t absolute = position < 0 ? position + length : position;
  if (absolute < 0 || absolute >= length)
    return absl::InvalidArgumentError(field + ": position " + std::to_string(position) + " is outside the row, which has " +
                                      std::to_string(length) + " tokens: 0 to " + std::to_string(length - 1) + " (or -" +
                                      std::to_string(length) + " to -1)");
  return absolute;
}

}  // namespace

bool GlobMatches(const std::string& pattern, const std::string& text) {
  // The usual two-pointer walk: on a mismatch go back to the last '*' and let it take one character more.
  size_t p = 0, t = 0, star = std::string::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

absl::StatusOr<std::vector<HookPoint>> ResolveSites(const LoadedModel& model, const api::Selection& select, bool for_edit,
                                                    const std::string& field) {
  FS_ASSIGN_OR_RETURN(const std::set<int64_t> layers, ResolveLayers(model, select.layers, field));
  std::set<std::pair<int64_t, model::Site>> found;
  for (const std::string& pattern : select.sites) {
    bool named = false, usable = false;
    std::string why;
    for (const model::SiteSpec& spec : model::Sites()) {
      const int64_t copies = spec.in_block ? model.model->arch.layers : 1;
      for (int64_t layer = 0; layer < copies; ++layer) {
        if (!GlobMatches(pattern, model::FullName(spec.site, layer))) continue;
        named = true;
        if (!layers.empty() && !(spec.in_block && layers.contains(layer))) continue;
        const std::string name = model::FullName(spec.site, layer);
        // A value that is not to be trusted is refused by name, in a glob too; what the model does not have, a glob passes over.
        if (const std::string refused = model.refused.Why(spec.site); !refused.empty())
          return absl::FailedPreconditionError(field + ".sites: " + name + ": " + refused);
        const std::string reason = WhyNot(model, spec.site, for_edit);
        if (!reason.empty()) {
          why = name + ": " + reason;
          continue;
        }
        usable = true;
        found.emplace(layer, spec.site);
      }
    }
    if (!named && IsGlob(pattern))
      return absl::NotFoundError(field + ".sites: " + Quote(pattern) + " matches no hook point of " + model.name);
    if (!named) return UnknownName(model, pattern, field + ".sites");
    if (!usable && !why.empty()) return absl::FailedPreconditionError(field + ".sites: " + why);
    if (!usable) return absl::InvalidArgumentError(field + ": " + Quote(pattern) + " has no hook point in the chosen layers");
  }
  std::vector<HookPoint> hooks;
  for (const auto& [layer, site] : found) hooks.push_back({site, layer});
  return hooks;
}

absl::StatusOr<HookPoint> ExactSite(const LoadedModel& model, const std::string& name, const std::string& field) {
  if (IsGlob(name)) return absl::InvalidArgumentError(field + " is " + Quote(name) + "; it must be the name of one hook point");
  api::Selection select;
  select.sites = {name};
  FS_ASSIGN_OR_RETURN(const std::vector<HookPoint> hooks, ResolveSites(model, select, /*for_edit=*/false, field));
  return hooks.front();
}

absl::StatusOr<int64_t> ResolveToken(const LoadedModel& model, const api::TokenRef& token, const std::string& field) {
  const int64_t vocabulary = model.model->arch.vocabulary;
  if (const int64_t* id = std::get_if<int64_t>(&token)) {
    if (*id < 0 || *id >= vocabulary)
      return absl::InvalidArgumentError(field + ": token id " + std::to_string(*id) + " is outside the vocabulary of " +
                                        std::to_string(vocabulary));
    return *id;
  }
  const std::string& text = std::get<std::string>(token);
  if (model.tokenizer == nullptr)
    return absl::FailedPreconditionError(field + ": " + model.name + " has no tokenizer.json; give token ids instead of text");
  FS_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, model.tokenizer->EncodePlain(text));
  if (ids.size() == 1 && ids.front() < vocabulary) return ids.front();
  if (ids.size() == 1)
    return absl::InvalidArgumentError(field + ": " + Quote(text) + " is token " + std::to_string(ids.front()) +
                                      ", for which the model has no logit: its vocabulary has " + std::to_string(vocabulary));
  std::string pieces;
  for (int64_t id : ids) pieces += (pieces.empty() ? "" : ", ") + Quote(model.tokenizer->TokenText(id));
  return absl::InvalidArgumentError(field + ": " + Quote(text) + " is " + std::to_string(ids.size()) + " tokens (" + pieces +
                                    "); exactly one is needed. A word in the middle of a text usually has its space in front: ' word'");
}

absl::StatusOr<std::vector<int64_t>> ResolveTokens(const LoadedModel& model, const std::vector<api::TokenRef>& tokens,
                                                   const std::string& field) {
  std::vector<int64_t> ids;
  for (size_t i = 0; i < tokens.size(); ++i) {
    FS_ASSIGN_OR_RETURN(const int64_t id, ResolveToken(model, tokens[i], field + "[" + std::to_string(i) + "]"));
    ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<std::vector<int64_t>> ResolvePositions(const LoadedModel& model, const api::Positions& positions,
                                                      const std::vector<int64_t>& ids, const std::string& field) {
  const int64_t length = static_cast<int64_t>(ids.size());
  std::set<int64_t> out;
  for (const api::PositionItem& item : positions) {
    if (std::holds_alternative<api::AllPositions>(item)) {
      for (int64_t p = 0; p < length; ++p) out.insert(out.end(), p);
    } else if (std::holds_alternative<api::LastPosition>(item)) {
      out.insert(length - 1);
    } else if (const int64_t* index = std::get_if<int64_t>(&item)) {
      FS_ASSIGN_OR_RETURN(const int64_t absolute, AbsolutePosition(*index, length, field));
      out.insert(absolute);
    } else if (const auto* range = std::get_if<api::PositionRange>(&item)) {
      const int64_t start = range->start.value_or(0), end = range->end.value_or(length);
      const int64_t from = start < 0 ? start + length : start, to = end < 0 ? end + length : end;
      if (from < 0 || to > length || from >= to)
        return absl::InvalidArgumentError(field + ": range " + std::to_string(start) + " to " + std::to_string(end) +
                                          " is empty or outside the row, which has " + std::to_string(length) + " tokens");
      for (int64_t p = from; p < to; ++p) out.insert(p);
    } else if (std::holds_alternative<api::GeneratedPositions>(item)) {
      return absl::InvalidArgumentError(field + ": only Inference.Generate has generated tokens, in captures and interventions");
    } else {
      const auto& occurrences = std::get<api::OccurrencesOf>(item);
      FS_ASSIGN_OR_RETURN(const int64_t id, ResolveToken(model, occurrences.token, field));
      const size_t before = out.size();
      bool any = false;
      for (int64_t p = 0; p < length; ++p)
        if (ids[static_cast<size_t>(p)] == id) {
          out.insert(p);
          any = true;
        }
      if (!any && before == out.size())
        return absl::InvalidArgumentError(field + ": token " + std::to_string(id) + TextOf(model, id) + " does not occur in the row");
    }
  }
  if (out.empty()) return absl::InvalidArgumentError(field + ": no positions given");
  return std::vector<int64_t>(out.begin(), out.end());
}

absl::StatusOr<std::vector<uint32_t>> ResolveRows(const std::vector<uint32_t>& rows, size_t count, const std::string& field) {
  std::set<uint32_t> out;
  for (uint32_t row : rows) {
    if (row >= count)
      return absl::InvalidArgumentError(field + ": row " + std::to_string(row) + " does not exist; the request has " +
                                        std::to_string(count) + " prompts: 0 to " + std::to_string(count - 1));
    out.insert(row);
  }
  if (rows.empty())
    for (size_t row = 0; row < count; ++row) out.insert(out.end(), static_cast<uint32_t>(row));
  return std::vector<uint32_t>(out.begin(), out.end());
}

absl::StatusOr<std::vector<int64_t>> ResolveHeads(const LoadedModel& model, const std::vector<uint32_t>& heads, const HookPoint& hook,
                                                  const std::string& field) {
  if (heads.empty()) return std::vector<int64_t>();
  const model::SiteSpec& spec = model::SpecOf(hook.site);
  const int axis = model::HeadAxis(spec);
  const std::string name = model::FullName(hook.site, hook.layer);
  if (axis < 0) return absl::InvalidArgumentError(field + ".heads: " + name + " has no head axis");
  const int64_t count = model::SizeOf(spec.axes[static_cast<size_t>(axis)], model.model->arch);
  std::set<int64_t> out;
  for (uint32_t head : heads) {
    if (head >= count)
      return absl::InvalidArgumentError(field + ".heads: head " + std::to_string(head) + " does not exist; " + name + " has heads 0 to " +
                                        std::to_string(count - 1));
    out.insert(head);
  }
  return std::vector<int64_t>(out.begin(), out.end());
}

absl::StatusOr<std::vector<int64_t>> ResolveUnits(const LoadedModel& model, const std::vector<uint32_t>& units, const HookPoint& hook,
                                                  const std::string& field) {
  const int64_t count = model::SizeOf(model::SpecOf(hook.site).axes.back(), model.model->arch);
  std::set<int64_t> out;
  for (uint32_t unit : units) {
    if (count >= 0 && unit >= count)
      return absl::InvalidArgumentError(field + ".units: unit " + std::to_string(unit) + " does not exist; " +
                                        model::FullName(hook.site, hook.layer) + " has units 0 to " + std::to_string(count - 1));
    out.insert(unit);
  }
  return std::vector<int64_t>(out.begin(), out.end());
}

}  // namespace fluoroscope::engine
