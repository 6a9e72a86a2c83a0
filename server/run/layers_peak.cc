#include "run/layers_peak.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "model/line_kernels.h"
#include "model/short_attention.h"
#include "model/sites.h"
#include "run/sizes.h"

namespace fluoroscope::run {
namespace {

using model::Architecture;
using model::Part;
using model::Site;

// Elements that a layer holds for each token, at its moments. Of a batch in which rows attend in several groups, these are put together.
struct Widths {
  explicit Widths(const Architecture& arch) {
    const int64_t d = arch.d_model, q = arch.q_size(), kv = arch.kv_size();
    const int64_t rotated = arch.positions == model::PositionScheme::kRotary ? q + kv : 0;
    projected = 2 * d + q + 2 * kv;  // residual, norm, q, k and v
    attending = projected + rotated;
    attended = attending + q + d;
    gated = 2 * d + (arch.gated_mlp ? 2 : 1) * arch.d_mlp;
    activated = gated + arch.d_mlp;
    added = 2 * d + arch.d_mlp + d;
  }
  int64_t projected, attending, attended, gated, activated, added;
};

// What is there for each token when a site's hook is called, the site's own value included.
int64_t WidthAt(const Place& place, const Widths& widths, const Architecture& arch) {
  const int64_t d = arch.d_model;
  switch (place.site) {
    case Site::kQ:
    case Site::kK:
    case Site::kV:
      return widths.projected;
    case Site::kRotQ:
    case Site::kRotK:
      return widths.attending;
    case Site::kAttnScores:
    case Site::kPattern:  // what the rows before it have attended to lies there too
    case Site::kZ:
      return widths.attended - d;
    case Site::kResult:
    case Site::kAttnOut:
    case Site::kResidMid:
      return widths.attended;
    case Site::kMlpPre:
    case Site::kMlpPreLinear:
      return widths.gated;
    case Site::kMlpPost:
    case Site::kMlpOut:
    case Site::kResidPost:
      return widths.added;
    default:
      return 3 * d;  // the residual, and what is made of it before anything is projected
  }
}

bool LooksInside(const Place& place) { return place.site == Site::kAttnScores || place.site == Site::kPattern; }
bool IsRowsOwn(const Place& place) { return LooksInside(place) || place.site == Site::kResult; }

// Tensors of a row's own at a site: scores, pattern, mask, keys and values for every head; or each head's part of the output.
int64_t OwnBytes(const Place& place, const RowPlan& row, const Architecture& arch, int64_t element_size) {
  const int64_t n = row.lines(), keys = row.length();
  if (place.site == Site::kResult) return 2 * n * arch.heads * arch.d_model * element_size;  // once by heads, once by positions
  const int64_t behind_prefix = row.first() > 0 ? keys * arch.kv_size() : 0;
  return (2 * arch.heads * n * keys + 2 * keys * arch.q_size() + behind_prefix) * element_size + n * keys;
}

// How often an edit holds its own entries in float32 at once, beside the site's copy.
int64_t CopiesOf(const intervention::Edit& edit) {
  if (std::holds_alternative<intervention::Copy>(edit) || std::holds_alternative<intervention::Zero>(edit)) return 1;
  if (std::holds_alternative<intervention::Set>(edit) || std::holds_alternative<intervention::Scale>(edit)) return 1;
  if (std::holds_alternative<intervention::Add>(edit) || std::holds_alternative<intervention::Mean>(edit) ||
      std::holds_alternative<intervention::Noise>(edit)) {
    return 2;
  }
  return 4;
}

// Whether a site's value is a view of a larger matrix, or is held by the forward pass besides.
bool IsPart(const Place& place) {
  switch (place.site) {
    case Site::kQ:
    case Site::kK:
    case Site::kV:
    case Site::kMlpPre:
    case Site::kMlpPreLinear:
    case Site::kResult:
      return true;
    default:
      return false;
  }
}

// What finding the part of a subspace of `rank` that a matrix reads takes (intervention/subspace.cc): first the matrix in float64 (and, of
// some units, as taken from the weights), its Gram matrix, the eigenvectors, and LAPACK's workspace of two such matrices (dsyevd); then the
// projections' singular vectors (dgesdd, whose workspace is four squares of the rank) beside the vectors, and for the null space
// their projections.
int64_t PartBytes(const intervention::ReadPart& part, int64_t rank) {
  const int64_t rows = part.reader.size(0), columns = part.units.empty() ? part.reader.size(1) : static_cast<int64_t>(part.units.size());
  const int64_t side = std::min(rows, columns), taken = part.units.empty() ? 0 : rows * columns * part.reader.element_size();
  const int64_t doubles =
      std::max(rows * columns + 4 * side * side + rank * columns, (part.null_space ? 5 : 4) * rank * columns + 6 * rank * rank);
  return taken + doubles * static_cast<int64_t>(sizeof(double));
}

// What one edit holds while it is made, beside what the layer holds.
int64_t EditBytes(const EditPlan& edit, const RowPlan& row, const Architecture& arch, int64_t element_size, int64_t lines,
                  int64_t largest_keep) {
  const int64_t entries = Elements(edit.place, row, arch), size = ElementSize(edit.place, element_size);
  const int64_t per_token = ElementsPerToken(edit.place.site, row, arch);
  int64_t copies = CopiesOf(edit.edit) + (element_size == 4 ? 0 : 2);
  if (edit.place.site == Site::kAttnScores) copies += 2;  // what is masked is filled before, and masked again behind
  int64_t bytes = entries * copies * static_cast<int64_t>(sizeof(float));
  // Chosen heads or units are taken from their lines, and the lines put back.
  if (!edit.place.heads.empty() || !edit.place.units.empty())
    bytes += 2 * static_cast<int64_t>(edit.place.positions.size()) * per_token * size;
  // The first edit at a site copies it (of a site that the row has to itself, the row's part), and then the value itself is let go, unless
  // it is a part of something larger.
  const int64_t copy = (IsRowsOwn(edit.place) ? row.lines() : lines) * per_token * size;
  bytes = IsPart(edit.place) ? bytes + copy : std::max(bytes, copy);
  if (const auto* swap = std::get_if<intervention::SwapSubspace>(&edit.edit); swap != nullptr && swap->part != nullptr) {
    // The first of the edits that share a part finds its basis, before it makes anything else.
    const int64_t own = (edit.place.heads.empty() && edit.place.units.empty() && element_size == 4 ? 0 : entries) * 4;
    bytes = std::max(bytes, own + (IsPart(edit.place) ? copy : 0) + PartBytes(*swap->part, swap->basis.size(0)));
  }
  // A mean adds its sources up in float64.
  if (std::holds_alternative<intervention::Mean>(edit.edit)) bytes += 2 * static_cast<int64_t>(sizeof(double)) * largest_keep;
  return bytes;
}

// What a batch computes in a part of a layer, in tokens.
struct Tokens {
  int64_t computed = 0;
  int64_t frozen = 0;  // they add what their trunk's run added
  int64_t read = 0;    // of the frozen ones: whose heads somebody looks at
  int64_t all() const { return computed + frozen; }
};

bool ReadsHeads(const RowPlan& row, int64_t layer) {
  return std::any_of(row.keeps.begin(), row.keeps.end(), [&](const KeepPlan& keep) {
    return keep.place.layer == layer && (keep.place.site == Site::kQ || keep.place.site == Site::kK || keep.place.site == Site::kV);
  });
}

// The same for each layer's two parts. In the last layer that a row enters, only the positions that somebody reads go into the MLP.
class Lines {
 public:
  Lines(const RunPlan& plan, const std::vector<size_t>& batch)
      : attention_(static_cast<size_t>(plan.model->arch.layers)), mlp_(attention_.size()) {
    const int64_t layers = plan.model->arch.layers;
    for (const size_t index : batch) {
      const RowPlan& row = plan.rows[index];
      const Point start = row.joins().value_or(Point{0, Part::kAttention});
      const int64_t last = std::min(row.stop.layer, layers - 1);
      for (int64_t layer = std::max<int64_t>(0, start.layer); layer <= last; ++layer) {
        if (start <= Point{layer, Part::kAttention}) Add(row, layer, Part::kAttention, row.lines());
        Add(row, layer, Part::kMlp, layer < last ? row.lines() : static_cast<int64_t>(row.last_positions.size()));
      }
    }
  }
  int64_t layers() const { return static_cast<int64_t>(attention_.size()); }
  const Tokens& In(int64_t layer, Part part) const { return (part == Part::kMlp ? mlp_ : attention_)[static_cast<size_t>(layer)]; }

 private:
  void Add(const RowPlan& row, int64_t layer, Part part, int64_t lines) {
    Tokens& tokens = (part == Part::kMlp ? mlp_ : attention_)[static_cast<size_t>(layer)];
    const bool frozen = row.frozen(layer, part);
    (frozen ? tokens.frozen : tokens.computed) += lines;
    if (frozen && part == Part::kAttention && ReadsHeads(row, layer)) tokens.read += lines;
  }
  std::vector<Tokens> attention_, mlp_;
};

// How rows attend: side by side in groups of equal positions, those with few queries whatever their prefix.
struct Groups {
  Groups(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size) {
    const model::Model& model = *plan.model;
    const bool has_kernels = model::HasLineKernels(model.device, model.dtype);
    const bool packs = model.device.is_cpu() && model.dtype == at::kBFloat16;  // LibTorch copies keys and values for its products
    const auto is_short = [&](const RowPlan& row) { return has_kernels && row.lines() <= model::kMaxShortQueries; };
    const RowPlan* before = nullptr;
    int64_t rows = 0;  // of the group
    for (const size_t index : batch) {
      const RowPlan& row = plan.rows[index];
      const bool joins =
          before != nullptr && row.length() == before->length() && (row.first() == before->first() || (is_short(row) && is_short(*before)));
      before = &row;
      if (!joins) {
        ++count;
        rows = 0;
      }
      if (is_short(row)) continue;
      const int64_t keys = 2 * ++rows * row.length() * model.arch.kv_size() * element_size;
      int64_t bytes = packs ? keys : 0;
      // Keys and values, those of the prefix in front of each row's own; and the mask, also as numbers.
      if (row.first() > 0) bytes += keys + row.lines() * row.length() * (2 + element_size);
      beside = std::max(beside, bytes);
    }
  }
  int64_t count = 0;
  int64_t beside = 0;  // bytes: the most that a group holds while it attends, beside what is there for each token
};

// One batch's way through the layers, in elements of the model's dtype where nothing else is said.
class Layers {
 public:
  Layers(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size)
      : arch_(plan.model->arch), widths_(arch_), lines_(plan, batch), groups_(plan, batch, element_size), element_size_(element_size) {
    std::set<size_t> trunks;
    for (const size_t index : batch) {
      const RowPlan& row = plan.rows[index];
      tokens_ += row.lines();
      if (row.freeze) trunks.insert(row.freeze->trunk);
    }
    joined_ = groups_.count > 1 ? arch_.q_size() : 0;
    copies_ = trunks.size() > 1 ? 3 : 2;
  }

  // Of all moments at which nobody looks: bytes. `edited`: by layer, those of edited heads that live beside the matrix they are a part of.
  int64_t WidestBytes(const std::vector<int64_t>& edited) const {
    int64_t most = 3 * tokens_ * arch_.d_model * element_size_;  // rows that join: the residual, theirs, and both in one
    for (int64_t layer = 0; layer < lines_.layers(); ++layer) {
      const Tokens& tokens = lines_.In(layer, Part::kAttention);
      const int64_t attended = Of(tokens, widths_.attended + joined_, Reading(tokens));
      const int64_t attending = Of(tokens, widths_.attended - arch_.d_model, Reading(tokens));  // what follows is not there yet
      const int64_t mlp = Of(lines_.In(layer, Part::kMlp), std::max(widths_.activated, widths_.added), 0);
      most = std::max({most, attended * element_size_ + edited[static_cast<size_t>(layer)],
                       attending * element_size_ + groups_.beside + edited[static_cast<size_t>(layer)], mlp * element_size_});
    }
    return most;
  }

  // When a row's place is looked at, the site's own value included.
  int64_t At(const Place& place, const RowPlan& row) const {
    const int64_t width = WidthAt(place, widths_, arch_);
    const model::SiteSpec& spec = model::SpecOf(place.site);
    if (!spec.in_block) return tokens_ * width;
    if (spec.part == Part::kBlockInput) return lines_.In(place.layer, Part::kAttention).all() * width;
    const Tokens& tokens = lines_.In(place.layer, spec.part == Part::kMlp ? Part::kMlp : Part::kAttention);
    if (tokens.frozen == 0) return tokens.computed * width;
    const bool frozen = row.frozen(place.layer, spec.part);
    return tokens.all() * arch_.d_model + (frozen ? tokens.computed * arch_.d_model + tokens.frozen * width : tokens.computed * width);
  }

  // Of the tensor that holds a row's value at a place.
  int64_t TokensAt(const Place& place, const RowPlan& row) const {
    const model::SiteSpec& spec = model::SpecOf(place.site);
    if (!spec.in_block) return tokens_;
    if (spec.part == Part::kBlockInput) return lines_.In(place.layer, Part::kAttention).all();
    const Tokens& tokens = lines_.In(place.layer, spec.part == Part::kMlp ? Part::kMlp : Part::kAttention);
    return row.frozen(place.layer, spec.part) ? tokens.frozen : tokens.computed;
  }

  // Cosines and sines of the batch's positions.
  int64_t Angles() const { return arch_.positions == model::PositionScheme::kRotary ? tokens_ * arch_.d_head : 0; }

 private:
  // Where some rows are frozen: everybody's residual, the computed rows' lines of it as they go through the part, then what they came to
  // and the frozen rows' lines, with what is added to them (piece by piece, and in one where it is from several trunks) and the sum.
  int64_t Of(const Tokens& tokens, int64_t width, int64_t reading) const {
    if (tokens.frozen == 0) return tokens.computed * width;
    const int64_t d = arch_.d_model;
    return tokens.all() * d +
           std::max(tokens.computed * width, (tokens.computed + tokens.frozen) * d + std::max(reading, tokens.frozen * copies_ * d));
  }
  // What the heads of frozen rows would read: the readers' lines, three tensors of the norm's, and one projection at a time.
  int64_t Reading(const Tokens& tokens) const {
    const int64_t own = tokens.read < tokens.frozen ? arch_.d_model : 0;
    return tokens.read * (own + std::max(3 * arch_.d_model, arch_.d_model + std::max(arch_.q_size(), arch_.kv_size())));
  }

  const Architecture& arch_;
  const Widths widths_;
  const Lines lines_;
  const Groups groups_;
  const int64_t element_size_;
  int64_t tokens_ = 0, joined_ = 0, copies_ = 2;
};

// By layer: an edited q, k or v is a copy that lives until the rows have attended; rotation ends it earlier, being another copy.
std::vector<int64_t> EditedHeads(const RunPlan& plan, const std::vector<size_t>& batch, const Layers& layers, int64_t element_size) {
  const Architecture& arch = plan.model->arch;
  std::map<std::pair<int64_t, Site>, int64_t> copies;
  for (const size_t index : batch) {
    const RowPlan& row = plan.rows[index];
    for (const EditPlan& edit : row.edits) {
      const Site site = edit.place.site;
      const bool lives_on =
          site == Site::kV || ((site == Site::kQ || site == Site::kK) && arch.positions != model::PositionScheme::kRotary);
      if (lives_on) copies[{edit.place.layer, site}] = layers.TokensAt(edit.place, row) * ElementsPerToken(site, row, arch) * element_size;
    }
  }
  std::vector<int64_t> bytes(static_cast<size_t>(arch.layers));
  for (const auto& [place, size] : copies) bytes[static_cast<size_t>(place.first)] += size;
  return bytes;
}

}  // namespace

int64_t LayersBytes(const RunPlan& plan, const std::vector<size_t>& batch, int64_t element_size, int64_t largest_keep) {
  const Architecture& arch = plan.model->arch;
  const Layers layers(plan, batch, element_size);
  int64_t most = layers.WidestBytes(EditedHeads(plan, batch, layers, element_size));
  for (const size_t index : batch) {
    const RowPlan& row = plan.rows[index];
    const bool edits = !row.edits.empty();
    for (const CapturePlan& capture : row.captures) {
      if (IsRowsOwn(capture.place)) {
        // A value that is sent as it is counts as a result.
        const bool sent =
            !edits && capture.keep_seconds == 0 && !capture.reduced() && capture.place.heads.empty() && capture.place.units.empty();
        const int64_t own = OwnBytes(capture.place, row, arch, element_size);
        most = std::max(most,
                        layers.At(capture.place, row) * element_size + own - (sent ? CaptureBytes(capture, row, arch, element_size) : 0));
      }
      // What units write along all directions, before the largest are taken: the products and their magnitudes.
      if (capture.writes) {
        const int64_t products = Elements(capture.place, row, arch) * capture.writes->directions.size(0) * 4;
        most = std::max(most, layers.At(capture.place, row) * element_size + products * (capture.writes->top_k > 0 ? 3 : 1));
      }
    }
    for (const KeepPlan& keep : row.keeps)
      if (IsRowsOwn(keep.place))
        most = std::max(most, layers.At(keep.place, row) * element_size + OwnBytes(keep.place, row, arch, element_size));
    for (const EditPlan& edit : row.edits) {
      const int64_t held = layers.At(edit.place, row) * element_size, in_layer = layers.TokensAt(edit.place, row);
      const int64_t own = IsRowsOwn(edit.place) ? OwnBytes(edit.place, row, arch, element_size) : 0;
      most = std::max(most, held + own + EditBytes(edit, row, arch, element_size, in_layer, largest_keep));
    }
  }
  return most + layers.Angles() * element_size;
}

}  // namespace fluoroscope::run
