#include "run/batch_run.h"

#include <algorithm>
#include <numeric>

namespace fluoroscope::run {
namespace {

at::Tensor IdsOf(const LaneRows& rows, const model::PackedRows& whole, at::Device device) {
  std::vector<int64_t> ids;
  for (const model::RowSpan& span : whole.rows()) {
    const RowPlan& row = *rows[static_cast<size_t>(span.slot)].plan;
    ids.insert(ids.end(), row.ids.begin() + row.first(), row.ids.end());
  }
  return model::IndexTensor(ids, device);
}

}  // namespace

BatchRun::BatchRun(const model::Model& model, LaneRows rows)
    : model_(model), rows_(std::move(rows)), lens_(model), hooks_(model, rows_, lens_) {
  live_ = Beginning();
  for (size_t slot = 0; slot < rows_.size(); ++slot)
    if (Row(static_cast<int64_t>(slot)).joins()) waiting_.push_back(slot);
  const auto start = [this](size_t slot) { return *Row(static_cast<int64_t>(slot)).joins(); };
  std::stable_sort(waiting_.begin(), waiting_.end(), [&](size_t a, size_t b) { return start(a) < start(b); });
}

model::PackedRows BatchRun::Beginning() {
  std::vector<model::RowSpan> spans;
  for (size_t slot = 0; slot < rows_.size(); ++slot) {
    const RowPlan& row = *rows_[slot].plan;
    if (row.joins()) continue;
    model::RowSpan& span = spans.emplace_back();
    span.slot = static_cast<int64_t>(slot);
    span.positions.resize(static_cast<size_t>(row.lines()));
    std::iota(span.positions.begin(), span.positions.end(), row.first());
    if (row.first() == 0) continue;
    span.prefix = row.fork ? PrefixOf(LaneOf(span.slot), row.fork->trunk) : row.prefix->kv.get();
    span.prefix_size = row.first();
  }
  return model::PackedRows(std::move(spans));
}

bool BatchRun::Step() {
  if (lens_.waiting()) {
    lens_.Step();
    return more_ || lens_.waiting();
  }
  more_ = Advance();
  return more_ || lens_.waiting();
}

bool BatchRun::Advance() {
  switch (stage_) {
    case Stage::kEmbed:
      if (live_.tokens() > 0) {
        angles_ = model::AnglesOf(model_, live_);
        x_ = model::Embed(model_, IdsOf(rows_, live_, model_.device), live_, hooks_);
      }
      EnterLayer();
      break;
    case Stage::kAttention:
      Attention();
      break;
    case Stage::kMlp:
      Mlp();
      break;
    case Stage::kFinalNorm:
      x_ = model::FinalNorm(model_, x_, live_, hooks_);
      logits_ = std::make_unique<LogitsRun>(model_, rows_, live_, std::move(x_));
      stage_ = Stage::kLogits;
      break;
    case Stage::kLogits:
      return logits_->Step();
  }
  return live_.tokens() > 0 || !waiting_.empty();
}

void BatchRun::EnterLayer() {
  // With nobody in the batch the next layer is the one where somebody begins.
  if (live_.tokens() == 0 && !waiting_.empty()) layer_ = Row(static_cast<int64_t>(waiting_.front())).joins()->layer;
  if (layer_ == model_.arch.layers) {
    DropRowsBefore({layer_, model::Part::kFinal});
    stage_ = Stage::kFinalNorm;
    return;
  }
  DropRowsBefore({layer_, model::Part::kBlockInput});
  Join({layer_, model::Part::kAttention});
  if (live_.tokens() == 0) {
    stage_ = Stage::kMlp;  // whoever begins next begins there; if nobody does, the batch is done
    return;
  }
  x_ = model::Visit(hooks_, model::Site::kResidPre, layer_, live_, std::move(x_));
  DropRowsBefore({layer_, model::Part::kAttention});
  stage_ = Stage::kAttention;
}

void BatchRun::Attention() {
  const int64_t layers = model_.arch.layers;
  // Rows for which this is the last layer go on with only the positions that somebody reads.
  std::vector<model::RowSpan> keep = live_.rows();
  for (model::RowSpan& span : keep) {
    const RowPlan& row = Row(span.slot);
    if (std::min(row.stop.layer, layers - 1) == layer_) span.positions = row.last_positions;
  }
  model::PackedRows kept(std::move(keep));
  const model::PackedRows frozen = Part(live_, model::Part::kAttention, true);
  if (frozen.rows().empty()) {
    x_ = model::AttentionPart(model_, layer_, x_, live_, kept, angles_, hooks_);
    if (kept.tokens() != live_.tokens()) angles_ = model::AnglesOf(model_, kept);
  } else {
    const auto lines = [&](const model::PackedRows& rows) { return model::TakeLines(x_, live_.LinesOf(rows, model_.device)); };
    const model::PackedRows computed = Part(live_, model::Part::kAttention, false);
    const model::PackedRows computed_kept = Part(kept, model::Part::kAttention, false);
    const model::PackedRows frozen_kept = Part(kept, model::Part::kAttention, true);
    std::vector<at::Tensor> pieces;
    if (!computed.rows().empty())
      pieces.push_back(
          model::AttentionPart(model_, layer_, lines(computed), computed, computed_kept, model::AnglesOf(model_, computed), hooks_));
    pieces.push_back(Frozen(model::Part::kAttention, lines(frozen), frozen, frozen_kept));
    std::vector<model::RowSpan> spans = computed_kept.rows();
    spans.insert(spans.end(), frozen_kept.rows().begin(), frozen_kept.rows().end());
    kept = model::PackedRows(std::move(spans));
    x_ = at::cat(pieces);
    angles_ = model::AnglesOf(model_, kept);
  }
  live_ = std::move(kept);
  DropRowsBefore({layer_, model::Part::kMlp});
  stage_ = Stage::kMlp;
}

void BatchRun::Mlp() {
  Join({layer_, model::Part::kMlp});
  const model::PackedRows frozen = Part(live_, model::Part::kMlp, true);
  if (!frozen.rows().empty()) {
    const auto lines = [&](const model::PackedRows& rows) { return model::TakeLines(x_, live_.LinesOf(rows, model_.device)); };
    const model::PackedRows computed = Part(live_, model::Part::kMlp, false);
    std::vector<at::Tensor> pieces;
    if (!computed.rows().empty()) pieces.push_back(model::MlpPart(model_, layer_, lines(computed), computed, hooks_));
    pieces.push_back(Frozen(model::Part::kMlp, lines(frozen), frozen, frozen));
    std::vector<model::RowSpan> spans = computed.rows();
    spans.insert(spans.end(), frozen.rows().begin(), frozen.rows().end());
    live_ = model::PackedRows(std::move(spans));
    x_ = at::cat(pieces);
    angles_ = model::AnglesOf(model_, live_);
  } else if (live_.tokens() > 0) {
    x_ = model::MlpPart(model_, layer_, x_, live_, hooks_);
  }
  ++layer_;
  EnterLayer();
}

model::PackedRows BatchRun::Part(const model::PackedRows& rows, model::Part part, bool frozen) const {
  std::vector<model::RowSpan> spans;
  for (const model::RowSpan& span : rows.rows())
    if (Row(span.slot).frozen(layer_, part) == frozen) spans.push_back(span);
  return model::PackedRows(std::move(spans));
}

at::Tensor BatchRun::Frozen(model::Part part, const at::Tensor& x, const model::PackedRows& rows, const model::PackedRows& keep) {
  const bool mlp = part == model::Part::kMlp;
  model::ReadFrozen(model_, layer_, part, x, rows, hooks_);
  std::vector<at::Tensor> added;
  for (size_t i = 0; i < keep.rows().size();) {
    const Lane& lane = LaneOf(keep.rows()[i].slot);
    const size_t trunk = Row(keep.rows()[i].slot).freeze->trunk;
    const auto same = [&](int64_t slot) { return &LaneOf(slot) == &lane && Row(slot).freeze->trunk == trunk; };
    std::vector<int64_t> lines;  // of the rows of one trunk, in one go
    for (; i < keep.rows().size() && same(keep.rows()[i].slot); ++i)
      lines.insert(lines.end(), keep.rows()[i].positions.begin(), keep.rows()[i].positions.end());
    const TrunkPlan& keys = lane.plan.trunks[trunk];
    const size_t key = (mlp ? keys.mlp_out : keys.attn_out)[static_cast<size_t>(layer_)];
    added.push_back(model::TakeLines(lane.kept[key], model::IndexTensor(lines, model_.device)));
  }
  const at::Tensor own = keep.tokens() == rows.tokens() ? x : model::TakeLines(x, rows.LinesOf(keep, model_.device));
  at::Tensor sum = own + (added.size() == 1 ? added.front() : at::cat(added));
  return model::Visit(hooks_, mlp ? model::Site::kResidPost : model::Site::kResidMid, layer_, keep, std::move(sum));
}

void BatchRun::Join(Point here) {
  std::vector<size_t> slots;
  std::vector<model::RowSpan> spans;
  while (!waiting_.empty() && *Row(static_cast<int64_t>(waiting_.front())).joins() == here) {
    const size_t slot = waiting_.front();
    waiting_.pop_front();
    const RowPlan& row = Row(static_cast<int64_t>(slot));
    model::RowSpan& span = spans.emplace_back();
    span.slot = static_cast<int64_t>(slot);
    if (here.part == model::Part::kMlp && std::min(row.stop.layer, model_.arch.layers - 1) == here.layer) {
      span.positions = row.last_positions;  // as they leave this layer's attention
    } else {
      span.positions.resize(static_cast<size_t>(row.lines()));
      std::iota(span.positions.begin(), span.positions.end(), row.first());
    }
    if (row.fork) span.prefix = PrefixOf(LaneOf(span.slot), row.fork->trunk);
    span.prefix_size = row.first();
    slots.push_back(slot);
  }
  if (slots.empty()) return;
  const model::PackedRows joining(spans);
  at::Tensor start = StartOf(slots, joining, here);
  // Those in the batch have been there; for the ones that begin, the site is where they begin.
  if (here.part == model::Part::kMlp) start = model::Visit(hooks_, model::Site::kResidMid, here.layer, joining, std::move(start));
  std::vector<model::RowSpan> all = live_.rows();
  all.insert(all.end(), spans.begin(), spans.end());
  x_ = live_.tokens() > 0 ? at::cat({x_, start}) : start;
  live_ = model::PackedRows(std::move(all));
  angles_ = model::AnglesOf(model_, live_);
}

at::Tensor BatchRun::StartOf(const std::vector<size_t>& slots, const model::PackedRows& joining, Point here) const {
  std::vector<at::Tensor> pieces;
  const auto row = [&](size_t i) -> const RowPlan& { return Row(static_cast<int64_t>(slots[i])); };
  // Rows of one trunk take their lines in one go.
  for (size_t i = 0; i < slots.size();) {
    if (const auto& start = row(i).start) {
      const std::vector<int64_t>& lines = joining.rows()[i++].positions;
      pieces.push_back(model::TakeLines(start->value, model::IndexTensor(lines, model_.device)).to(model_.dtype));
      continue;
    }
    const Lane& lane = LaneOf(static_cast<int64_t>(slots[i]));
    const size_t trunk = row(i).fork->trunk;
    const auto same = [&](size_t other) {
      return &LaneOf(static_cast<int64_t>(slots[other])) == &lane && row(other).fork && row(other).fork->trunk == trunk;
    };
    std::vector<int64_t> lines;
    for (; i < slots.size() && same(i); ++i)
      lines.insert(lines.end(), joining.rows()[i].positions.begin(), joining.rows()[i].positions.end());
    const TrunkPlan& keys = lane.plan.trunks[trunk];
    const size_t key = (here.part == model::Part::kMlp ? keys.resid_mid : keys.resid_pre)[static_cast<size_t>(here.layer)];
    pieces.push_back(model::TakeLines(lane.kept[key], model::IndexTensor(lines, model_.device)));
  }
  return pieces.size() == 1 ? pieces.front() : at::cat(pieces);
}

const model::KvPrefix* BatchRun::PrefixOf(const Lane& lane, size_t trunk) {
  const auto [it, is_new] = prefixes_.try_emplace({&lane, trunk});
  if (!is_new) return &it->second;
  const auto take = [&](const std::vector<size_t>& keys, std::vector<at::Tensor>& to) {
    to.resize(keys.size());
    for (size_t layer = 0; layer < keys.size(); ++layer) {
      to[layer] = lane.kept[keys[layer]];
      if (!to[layer].defined()) hooks_.AlsoTo(lane, keys[layer], to[layer]);
    }
  };
  take(lane.plan.trunks[trunk].k, it->second.k);
  take(lane.plan.trunks[trunk].v, it->second.v);
  return &it->second;
}

void BatchRun::DropRowsBefore(Point next) {
  std::vector<model::RowSpan> staying;
  for (const model::RowSpan& span : live_.rows())
    if (Row(span.slot).stop >= next) staying.push_back(span);
  if (staying.size() < live_.rows().size()) KeepOnly(std::move(staying));
}

void BatchRun::KeepOnly(std::vector<model::RowSpan> staying) {
  model::PackedRows packed(std::move(staying));
  if (!x_.defined()) {  // nothing is computed yet
    live_ = std::move(packed);
    return;
  }
  x_ = packed.tokens() == 0 ? at::Tensor() : model::TakeLines(x_, live_.LinesOf(packed, model_.device));
  if (packed.tokens() > 0) angles_ = model::AnglesOf(model_, packed);
  live_ = std::move(packed);
}

bool BatchRun::Remove(const Lane& lane) {
  const auto leaves = [&](int64_t slot) { return &LaneOf(slot) == &lane; };
  std::vector<model::RowSpan> staying;
  for (const model::RowSpan& span : live_.rows())
    if (!leaves(span.slot)) staying.push_back(span);
  if (logits_ != nullptr) {
    more_ = logits_->Remove(lane);
    live_ = model::PackedRows(std::move(staying));
  } else {
    if (staying.size() < live_.rows().size()) KeepOnly(std::move(staying));
    std::erase_if(waiting_, [&](size_t slot) { return leaves(static_cast<int64_t>(slot)); });
    more_ = live_.tokens() > 0 || !waiting_.empty();
    if (live_.tokens() == 0 && stage_ == Stage::kAttention) stage_ = Stage::kMlp;  // whoever begins next begins there
  }
  hooks_.Remove(lane);
  lens_.Remove(lane);
  std::erase_if(prefixes_, [&](const auto& prefix) { return prefix.first.first == &lane; });
  return more_ || lens_.waiting();
}

}  // namespace fluoroscope::run
