#include "run/result_writer.h"

#include <new>
#include <stdexcept>

#include "model/packed_rows.h"
#include "tensor/chunk.h"

namespace fluoroscope::run {
namespace {

// [n, units]: what one of each unit's value writes along each direction.
at::Tensor WritesOf(const WritesPlan& writes, const Place& place) {
  at::Tensor per_unit = at::matmul(writes.directions, writes.out.to(at::kFloat));
  return place.units.empty() ? per_unit : at::index_select(per_unit, 1, model::IndexTensor(place.units, per_unit.device()));
}

}  // namespace

void ResultWriter::Fill(const RowPlan& row, api::NamedTensor& tensor, const std::vector<int64_t>& positions, const at::Tensor& value) {
  tensor.row = row.index;
  tensor.sample = row.sample;
  tensor.positions.assign(positions.begin(), positions.end());
  for (int64_t position : positions) tensor.token_ids.push_back(row.ids[static_cast<size_t>(position)]);
  absl::StatusOr<api::Chunk> chunk = tensor::ToChunk(value);
  if (absl::IsResourceExhausted(chunk.status())) throw std::bad_alloc();  // the run's guard makes the status of it again
  if (!chunk.ok()) throw std::runtime_error(std::string(chunk.status().message()));
  tensor.data = *std::move(chunk);
}

void ResultWriter::Send(const RowPlan& row, api::NamedTensor tensor, const std::vector<int64_t>& positions, const at::Tensor& value) {
  Fill(row, tensor, positions, value);
  Pass(std::move(tensor));
}

void ResultWriter::CapturePart(const RowPlan& row, const CapturePlan& capture, std::string part, const at::Tensor& value) {
  api::NamedTensor tensor;
  tensor.name = model::FullName(capture.place.site, capture.place.layer);
  if (model::SpecOf(capture.place.site).in_block) tensor.layer = static_cast<uint32_t>(capture.place.layer);
  tensor.heads.assign(capture.place.heads.begin(), capture.place.heads.end());
  tensor.units.assign(capture.place.units.begin(), capture.place.units.end());
  tensor.capture = capture.index;
  tensor.part = std::move(part);
  tensor.gradient_of = capture.gradient_of;
  if (capture.keep_seconds > 0) {
    Fill(row, tensor, capture.place.positions, value);
    kept_captures_.push_back({std::move(tensor), capture.keep_seconds});
    return;
  }
  Send(row, std::move(tensor), capture.place.positions, value);
}

void ResultWriter::Capture(const RowPlan& row, const CapturePlan& capture, const at::Tensor& value) {
  if (capture.top_k > 0) {
    const auto [values, indices] = at::topk(value, capture.top_k, -1);
    CapturePart(row, capture, "values", values);
    CapturePart(row, capture, "indices", indices);
  } else if (capture.directions.defined()) {
    CapturePart(row, capture, "", at::matmul(value.to(at::kFloat), capture.directions.t()));
  } else if (capture.writes) {
    // [.., 1, d_mlp] * [n, d_mlp]
    const at::Tensor written = value.to(at::kFloat).unsqueeze(-2) * WritesOf(*capture.writes, capture.place);
    if (capture.writes->top_k == 0) return CapturePart(row, capture, "", written);
    const at::Tensor indices = std::get<1>(at::topk(written.abs(), capture.writes->top_k, -1));
    CapturePart(row, capture, "values", written.gather(-1, indices));
    CapturePart(row, capture, "indices", indices);
  } else {
    CapturePart(row, capture, "", value);
  }
}

void ResultWriter::Push(api::ForwardPart part) {
  if (held_) {
    held_->parts.push_back(std::move(part));
    return;
  }
  SendHeader();
  if (auto* tensor = std::get_if<api::NamedTensor>(&part)) {
    const void* const bytes = tensor->data.bytes.data();
    auto let_go = [owner = std::move(tensor->data.owner), size = tensor->data.bytes.size(), released = released_](const void*) mutable {
      *released += size;
      owner.reset();
    };
    tensor->data.owner = std::shared_ptr<const void>(bytes, std::move(let_go));
  }
  wants_more_ = sink_->Push(std::move(part)) && wants_more_;
}

void ResultWriter::SendHeader() {
  if (!header_) return;
  wants_more_ = sink_->Push(*std::exchange(header_, std::nullopt)) && wants_more_;
}

void ResultWriter::Hold() { held_ = Held{{}, metrics_.size(), captured_bytes_, kept_captures_.size()}; }

void ResultWriter::Release() {
  if (!held_) return;
  std::vector<api::ForwardPart> parts = std::move(held_->parts);
  held_.reset();
  for (api::ForwardPart& part : parts) Push(std::move(part));
}

void ResultWriter::Forget() {
  if (!held_) return;
  metrics_.resize(held_->metrics_before);
  captured_bytes_ = held_->captured_bytes_before;
  kept_captures_.resize(held_->kept_captures_before);
  held_.reset();
}

void ResultWriter::Pass(api::NamedTensor tensor) {
  captured_bytes_ += tensor.data.bytes.size();
  Push(std::move(tensor));
}

void ResultWriter::Logits(const RowPlan& row, const std::string& name, const std::vector<int64_t>& positions, const at::Tensor& value) {
  api::NamedTensor tensor;
  tensor.name = name;
  Send(row, std::move(tensor), positions, value);
}

}  // namespace fluoroscope::run
