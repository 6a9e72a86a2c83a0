#include "run/sizes.h"

#include <algorithm>

namespace fluoroscope::run {
namespace {

using model::Architecture;

int64_t LastAxis(const Place& place, const RowPlan& row, const Architecture& arch) {
  const model::Axis axis = model::SpecOf(place.site).axes.back();
  return axis == model::Axis::kKey ? row.length() : model::SizeOf(axis, arch);
}

}  // namespace

int64_t Elements(const Place& place, const RowPlan& row, const Architecture& arch) {
  int64_t elements = 1;
  const std::vector<model::Axis>& axes = model::SpecOf(place.site).axes;
  for (size_t i = 0; i < axes.size(); ++i) {
    const model::Axis axis = axes[i];
    if (i + 1 == axes.size() && !place.units.empty()) {
      elements *= static_cast<int64_t>(place.units.size());
    } else if (axis == model::Axis::kPosition || axis == model::Axis::kQuery) {
      elements *= static_cast<int64_t>(place.positions.size());
    } else if (axis == model::Axis::kKey) {
      elements *= row.length();
    } else if ((axis == model::Axis::kHead || axis == model::Axis::kKvHead) && !place.heads.empty()) {
      elements *= static_cast<int64_t>(place.heads.size());
    } else {
      elements *= model::SizeOf(axis, arch);
    }
  }
  return elements;
}

int64_t CaptureBytes(const CapturePlan& capture, const RowPlan& row, const Architecture& arch, int64_t element_size) {
  const int64_t elements = Elements(capture.place, row, arch);
  const int64_t lines = elements / std::max<int64_t>(1, LastAxis(capture.place, row, arch));
  if (capture.top_k > 0) return lines * capture.top_k * (element_size + 8);
  if (capture.lens) return lines * (capture.lens->top_k * (8 + 4 + 4) + static_cast<int64_t>(capture.lens->columns.size()) * (4 + 4));
  if (capture.writes) {
    const int64_t n = capture.writes->directions.size(0);
    return capture.writes->top_k > 0 ? lines * n * capture.writes->top_k * (4 + 8) : elements * n * 4;
  }
  if (capture.directions.defined()) return lines * capture.directions.size(0) * 4;
  return elements * element_size;
}

int64_t LogitsBytes(const RowPlan& row, const Architecture& arch, int64_t element_size) {
  if (!row.logits) return 0;
  const int64_t positions = static_cast<int64_t>(row.logits->positions.size());
  if (row.logits->top_k > 0) return positions * row.logits->top_k * (8 + 4 + 4);
  const int64_t columns = row.logits->columns.empty() ? arch.vocabulary : static_cast<int64_t>(row.logits->columns.size());
  return positions * columns * element_size;
}

bool InFloat32(model::Site site) {
  switch (site) {
    case model::Site::kLn1Scale:
    case model::Site::kLn1Normalized:
    case model::Site::kLn2Scale:
    case model::Site::kLn2Normalized:
    case model::Site::kLnFinalScale:
    case model::Site::kLnFinalNormalized:
      return true;
    default:
      return false;
  }
}

int64_t ElementSize(const Place& place, int64_t models) { return InFloat32(place.site) ? 4 : models; }

int64_t ElementsPerToken(model::Site site, const RowPlan& row, const Architecture& arch) {
  int64_t elements = 1;
  for (const model::Axis axis : model::SpecOf(site).axes) {
    if (axis == model::Axis::kKey) {
      elements *= row.length();
    } else if (axis != model::Axis::kPosition && axis != model::Axis::kQuery) {
      elements *= model::SizeOf(axis, arch);
    }
  }
  return elements;
}

}  // namespace fluoroscope::run
