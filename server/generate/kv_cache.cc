#include "generate/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace fluoroscope::generate {

KvCache::KvCache(const std::vector<at::Tensor>& k, const std::vector<at::Tensor>& v, int64_t most, const model::KvPrefix* front,
                 int64_t front_size)
    : most_(most), known_(front_size + k.front().size(0)), capacity_(std::min(most_, known_ + kFirstBlock)) {
  const auto begin = [&](const at::Tensor& own, const at::Tensor& before) {
    at::Tensor made = at::empty({capacity_, own.size(1), own.size(2)}, own.options());
    if (front_size > 0) made.narrow(0, 0, front_size).copy_(before.narrow(0, 0, front_size));
    made.narrow(0, front_size, own.size(0)).copy_(own);
    return made;
  };
  for (size_t layer = 0; layer < k.size(); ++layer) {
    prefix_.k.push_back(begin(k[layer], front == nullptr ? at::Tensor() : front->k[layer]));
    prefix_.v.push_back(begin(v[layer], front == nullptr ? at::Tensor() : front->v[layer]));
  }
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
