#include "generate/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace fluoroscope::generate {

KvCache::KvCache(const std::vector<at::Tensor>& k, const std::vector<at::Tensor>& v, int64_t most)
    : most_(most), known_(k.front().size(0)), capacity_(known_), prefix_{k, v} {
  Grow(std::min(most_, known_ + kFirstBlock));
}

void KvCache::Reserve(int64_t positions) {
  if (positions > capacity_) Grow(std::min(most_, std::max(positions, 2 * capacity_)));
  known_ = std::max(known_, positions);
}

void KvCache::Grow(int64_t capacity) {
  for (std::vector<at::Tensor>* tensors : {&prefix_.k, &prefix_.v}) {
    for (at::Tensor& tensor : *tensors) {
      at::Tensor larger = at::empty({capacity, tensor.size(1), tensor.size(2)}, tensor.options());
      larger.narrow(0, 0, known_).copy_(tensor.narrow(0, 0, known_));
      tensor = std::move(larger);
    }
  }
  capacity_ = capacity;
}

void KvCache::Put(std::vector<at::Tensor>& to, int64_t layer, int64_t position, const at::Tensor& from, int64_t line) {
  at::Tensor& kept = to[static_cast<size_t>(layer)];
  const bool packed = from.stride(2) == 1 && from.stride(1) == from.size(2);
  if (!kept.device().is_cpu() || !packed) {
    kept.select(0, position).copy_(from.select(0, line));
    return;
  }
  // A few hundred bytes, twice a layer for every row: a tensor operation takes longer than the copy.
  const size_t element = kept.element_size(), bytes = element * static_cast<size_t>(kept.size(1) * kept.size(2));
  auto* const out = static_cast<std::byte*>(kept.mutable_data_ptr()) + static_cast<size_t>(position) * bytes;
  std::memcpy(out, static_cast<const std::byte*>(from.const_data_ptr()) + static_cast<size_t>(line * from.stride(0)) * element, bytes);
}

}  // namespace fluoroscope::generate
