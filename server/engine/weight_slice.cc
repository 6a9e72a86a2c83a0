#include "engine/weight_slice.h"

#include <algorithm>
#include <utility>

#include "base/sha256.h"
#include "base/status_macros.h"
#include "model/named_weights.h"
#include "model/packed_rows.h"
#include "run/step_meter.h"
#include "tensor/chunk.h"

namespace fluoroscope::engine {
namespace {

std::string Text(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

// Names of one block stand for those of all.
std::string KnownNames(const std::vector<model::NamedWeight>& weights, int64_t layers) {
  std::vector<std::string> names;
  for (const model::NamedWeight& weight : weights) {
    if (weight.name.starts_with("blocks.0.")) names.push_back("blocks.{l}." + weight.name.substr(9));
    if (!weight.name.starts_with("blocks.")) names.push_back(weight.name);
  }
  return Text(names) + " ({l} from 0 to " + std::to_string(layers - 1) + ")";
}

absl::StatusOr<int64_t> Absolute(int64_t index, int64_t size, int64_t largest, const std::string& field) {
  const int64_t absolute = index < 0 ? index + size : index;
  if (absolute >= 0 && absolute <= largest) return absolute;
  return absl::InvalidArgumentError(field + ": " + std::to_string(index) + " is outside the axis, which has " + std::to_string(size) +
                                    " entries");
}

// Applies the slice of one axis: ranges at once, indices later.
absl::Status Take(const api::AxisSlice& slice, int64_t axis, const std::string& field, WeightSlice& out) {
  const int64_t size = out.view.size(axis);
  if (const auto* range = std::get_if<api::AxisRange>(&slice)) {
    FS_ASSIGN_OR_RETURN(const int64_t start, Absolute(range->start.value_or(0), size, size, field + ".range.start"));
    FS_ASSIGN_OR_RETURN(const int64_t end, Absolute(range->end.value_or(size), size, size, field + ".range.end"));
    if (start >= end)
      return absl::InvalidArgumentError(field + ".range is empty: from " + std::to_string(start) + " to before " + std::to_string(end));
    out.view = out.view.narrow(axis, start, end - start);
    return absl::OkStatus();
  }
  std::vector<int64_t> indices;
  for (const int64_t index : std::get<api::AxisIndices>(slice)) {
    FS_ASSIGN_OR_RETURN(const int64_t absolute, Absolute(index, size, size - 1, field + ".at.indices"));
    indices.push_back(absolute);
  }
  out.gather.emplace_back(axis, std::move(indices));
  return absl::OkStatus();
}

std::string HashOf(const api::ReadWeightsRequest& request) {
  std::string text = request.name;
  for (const api::AxisSlice& slice : request.slices) {
    if (const auto* range = std::get_if<api::AxisRange>(&slice)) {
      text += ";" + (range->start ? std::to_string(*range->start) : "") + ":" + (range->end ? std::to_string(*range->end) : "");
    } else {
      text += ";";
      for (const int64_t index : std::get<api::AxisIndices>(slice)) text += std::to_string(index) + ",";
    }
  }
  return Sha256Hex(text);
}

class SliceReader final : public sched::Work {
 public:
  SliceReader(WeightSlice slice, std::shared_ptr<const void> owner, api::ForwardHeader header, std::shared_ptr<api::ForwardSink> sink,
              api::NamedTensor named)
      : slice_(std::move(slice)), owner_(std::move(owner)), header_(std::move(header)), sink_(std::move(sink)), named_(std::move(named)) {}

  Progress Step() override {
    if (done_) return Sent();
    if (!started_) {
      started_ = true;
      queue_ms_ = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - arrived_).count();
    }
    const absl::StatusOr<bool> more = meter_.Step([this] { return CopyPiece(); });
    if (more.ok() && *more) return Progress::kMore;
    if (absl::Status status = more.ok() ? Send() : more.status(); !status.ok()) {
      Abort(std::move(status));
      return Progress::kDone;
    }
    done_ = true;
    api::ForwardSummary summary;
    summary.queue_ms = queue_ms_;
    summary.run_ms = meter_.run_ms();
    summary.peak_bytes = meter_.peak_bytes();
    sink_->Push(std::move(summary));
    sink_->Finish(absl::OkStatus());
    return Sent();
  }

  void Abort(absl::Status why) override {
    value_.reset();
    sink_->Finish(std::move(why));
  }

 private:
  // What is unsent stays charged; the sink resumes when nothing is, but perhaps before as well.
  Progress Sent() const { return sink_->AllSent() ? Progress::kDone : Progress::kBlocked; }

  // Copies the next lines; false when there is nothing left to copy.
  bool CopyPiece() {
    if (slice_.lines_at_a_time == 0) {
      value_ = slice_.view;
      return false;
    }
    const int64_t count = std::min(slice_.lines_at_a_time, slice_.lines - next_);
    const at::Tensor piece = Lines(next_, count);
    if (!value_.defined()) {
      std::vector<int64_t> shape = piece.sizes().vec();
      shape[0] = slice_.lines;
      value_ = at::empty(shape, piece.options().device(at::kCPU));
    }
    value_.narrow(0, next_, count).copy_(piece);
    next_ += count;
    return next_ < slice_.lines;
  }

  at::Tensor Lines(int64_t start, int64_t count) const {
    const at::Device device = slice_.view.device();
    const bool gathers_lines = !slice_.gather.empty() && slice_.gather.front().first == 0;
    at::Tensor lines = gathers_lines ? slice_.view : slice_.view.narrow(0, start, count);
    for (const auto& [axis, indices] : slice_.gather) {
      const auto first = indices.begin() + (axis == 0 ? start : 0);
      const auto last = axis == 0 ? first + count : indices.end();
      lines = lines.index_select(axis, model::IndexTensor({first, last}, device));
    }
    return lines;
  }

  absl::Status Send() {
    named_.name = slice_.name;
    FS_ASSIGN_OR_RETURN(named_.data, tensor::ToChunk(std::exchange(value_, {})));
    sink_->Push(std::move(header_));
    sink_->Push(std::move(named_));
    return absl::OkStatus();
  }

  WeightSlice slice_;
  const std::shared_ptr<const void> owner_;  // of the memory that the slice views
  api::ForwardHeader header_;
  const std::shared_ptr<api::ForwardSink> sink_;
  api::NamedTensor named_;
  run::StepMeter meter_;
  const std::chrono::steady_clock::time_point arrived_ = std::chrono::steady_clock::now();
  at::Tensor value_;  // the result, as far as it is copied
  int64_t next_ = 0;  // line
  double queue_ms_ = 0;
  bool started_ = false, done_ = false;
};

}  // namespace

absl::Status CountSlice(WeightSlice& slice) {
  // The lines of the result are its outermost axis. One is gathered axis by axis; the largest it is on the way counts.
  slice.lines = slice.view.size(0);
  double line = static_cast<double>(slice.view.nbytes()) / static_cast<double>(slice.view.size(0)), widest = line;
  for (const auto& [axis, indices] : slice.gather) {
    if (axis == 0) {
      slice.lines = static_cast<int64_t>(indices.size());
      continue;
    }
    line *= static_cast<double>(indices.size()) / static_cast<double>(slice.view.size(axis));
    widest = std::max(widest, line);
  }
  const double bytes = line * static_cast<double>(slice.lines);
  // No index list is longer than codecs let through and no weight larger than memory, so three axes stay far below 2^63; doubles say it
  // without a proof.
  constexpr double kMost = 1e15;
  if (std::max(bytes, widest) > kMost)
    return absl::ResourceExhaustedError("the slice of " + slice.name + " would have more than 10^15 bytes");
  if (slice.gather.empty() && slice.view.is_contiguous() && slice.view.device().is_cpu()) return absl::OkStatus();  // sent as it lies
  // A few megabytes are copied in some milliseconds; whole cache lines of a transposed matrix need some lines at a time.
  constexpr double kPiece = 4 << 20;
  slice.lines_at_a_time = std::clamp(static_cast<int64_t>(kPiece / widest), int64_t{1}, slice.lines);
  const double temporary = slice.gather.empty() ? 0 : 2 * widest * static_cast<double>(slice.lines_at_a_time);
  slice.peak_bytes = static_cast<uint64_t>(bytes + temporary);
  return absl::OkStatus();
}

std::vector<api::WeightInfo> ListWeightsOf(const LoadedModel& model) {
  std::vector<api::WeightInfo> infos;
  for (model::NamedWeight& weight : model::NamedWeights(*model.model))
    infos.push_back({std::move(weight.name), std::move(weight.axes), weight.value.sizes().vec()});
  return infos;
}

absl::StatusOr<WeightSlice> ResolveWeightSlice(const LoadedModel& model, const api::ReadWeightsRequest& request) {
  std::vector<model::NamedWeight> weights = model::NamedWeights(*model.model);
  const auto found = std::find_if(weights.begin(), weights.end(), [&](const auto& weight) { return weight.name == request.name; });
  if (found == weights.end())
    return absl::NotFoundError("name: " + model.name + " has no weight '" + request.name +
                               "'; there are: " + KnownNames(weights, model.model->arch.layers));
  if (request.slices.size() > found->axes.size())
    return absl::InvalidArgumentError("slices has " + std::to_string(request.slices.size()) + " entries; " + request.name +
                                      " has the axes " + Text(found->axes));
  WeightSlice slice;
  slice.name = found->name;
  slice.view = found->value;
  slice.hash = HashOf(request);
  for (size_t axis = 0; axis < request.slices.size(); ++axis)
    FS_RETURN_IF_ERROR(Take(request.slices[axis], static_cast<int64_t>(axis), "slices[" + std::to_string(axis) + "]", slice));
  FS_RETURN_IF_ERROR(CountSlice(slice));
  return slice;
}

std::shared_ptr<sched::Work> ReadSlice(WeightSlice slice, std::shared_ptr<const void> owner, api::ForwardHeader header,
                                       std::shared_ptr<api::ForwardSink> sink, api::NamedTensor named) {
  return std::make_shared<SliceReader>(std::move(slice), std::move(owner), std::move(header), std::move(sink), std::move(named));
}

}  // namespace fluoroscope::engine
