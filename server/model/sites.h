// The table of hook points. A hook point is an equation: its name means one tensor, the same one TransformerLens means.
// docs/hooks.md and the GetModel reply are made from this table; nothing else lists sites.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/architecture.h"

namespace fluoroscope::model {

// In the order in which a forward pass reaches them.
enum class Site : uint8_t {
  kEmbed,
  kPosEmbed,
  kResidPre,
  kAttnIn,
  kQInput,
  kKInput,
  kVInput,
  kLn1Scale,
  kLn1Normalized,
  kQ,
  kK,
  kV,
  kRotQ,
  kRotK,
  kAttnScores,
  kPattern,
  kZ,
  kResult,
  kAttnOut,
  kResidMid,
  kMlpIn,
  kLn2Scale,
  kLn2Normalized,
  kMlpPre,
  kMlpPreLinear,
  kMlpPost,
  kMlpOut,
  kResidPost,
  kLnFinalScale,
  kLnFinalNormalized,
};
inline constexpr int kSiteCount = static_cast<int>(Site::kLnFinalNormalized) + 1;

// Which part of the forward pass produces a site. A run stops after the last part that somebody needs.
enum class Part : uint8_t {
  kEmbedding,
  kBlockInput,  // resid_pre itself
  kAttention,   // everything up to resid_mid
  kMlp,         // everything up to resid_post
  kFinal,
};

// A named axis of one row's tensor.
enum class Axis : uint8_t { kPosition, kHead, kKvHead, kDModel, kDHead, kDMlp, kQuery, kKey, kOne };

struct SiteSpec {
  Site site;
  std::string_view name;  // without the "blocks.{l}." in front
  bool in_block;
  Part part;
  std::vector<Axis> axes;
  std::string_view equation;
  bool editable;
  // Only positions that somebody reads exist at this site in the last layer (everything behind K and V).
  bool behind_kv;
};

// All sites, indexed by Site.
std::span<const SiteSpec> Sites();
const SiteSpec& SpecOf(Site site);

// "blocks.5.hook_resid_pre"; the layer is ignored for sites outside the blocks.
std::string FullName(Site site, int64_t layer);

// Whether a metric's gradient can be taken there. What heads read of the residual can be looked at, but the pass goes on without it.
bool HasGradient(Site site);

// Why this architecture does not have the site; nullopt when it does.
std::optional<std::string> Unavailable(Site site, const Architecture& arch);

std::string_view NameOf(Axis axis);
// The size of an axis, -1 where it depends on the prompt.
int64_t SizeOf(Axis axis, const Architecture& arch);
// Index of the head axis in `axes` (query or key-value heads), -1 without one.
int HeadAxis(const SiteSpec& spec);
// Index of the position axis: kPosition or kQuery.
int PositionAxis(const SiteSpec& spec);

}  // namespace fluoroscope::model
