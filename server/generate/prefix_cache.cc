#include "generate/prefix_cache.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "obs/metrics.h"

namespace fluoroscope::generate {

// Whoever drops the last reference releases what is reserved for it, memory first.
struct PrefixValues {
  explicit PrefixValues(const PrefixCache& of) : cache(of) {}
  ~PrefixValues() {
    values.reset();
    if (bytes > 0 && !cache.closing_) cache.options_.release(bytes);
  }
  PrefixValues(const PrefixValues&) = delete;
  PrefixValues& operator=(const PrefixValues&) = delete;

  const PrefixCache& cache;
  uint64_t bytes = 0;  // reserved
  at::Tensor values;   // [2 * layers, kBlock, kv_heads, d_head]: k and v of each layer in turn
};

namespace {

constexpr int64_t kBlock = PrefixCache::kBlock;

// [2 * layers, kBlock, kv_heads, d_head] of one block.
std::vector<int64_t> ShapeOf(const model::KvPrefix& kv) {
  const at::Tensor& first = kv.k.front();
  return {2 * static_cast<int64_t>(kv.k.size()), kBlock, first.size(1), first.size(2)};
}

at::Tensor CopyOf(const model::KvPrefix& kv, size_t block) {
  at::Tensor values = at::empty(ShapeOf(kv), kv.k.front().options());
  const auto take = [&](const at::Tensor& of) { return of.narrow(0, static_cast<int64_t>(block) * kBlock, kBlock); };
  for (size_t layer = 0; layer < kv.k.size(); ++layer) {
    values.select(0, 2 * static_cast<int64_t>(layer)).copy_(take(kv.k[layer]));
    values.select(0, 2 * static_cast<int64_t>(layer) + 1).copy_(take(kv.v[layer]));
  }
  return values;
}

}  // namespace

PrefixCache::Found PrefixCache::Find(const std::string& principal, const std::shared_ptr<const model::Model>& model,
                                     std::span<const int64_t> ids) {
  PrefixBlocks::Dropped dropped;
  std::vector<PrefixValuesPtr> blocks;
  {
    const std::lock_guard lock(mutex_);
    blocks_.DropGone(dropped);
    blocks = blocks_.Walk(principal, model, ids);
    metrics_.SetPrefixCacheBytes(blocks_.bytes());
  }
  if (blocks.empty()) return {};
  auto kv = std::make_shared<model::KvPrefix>();
  const auto joined = [&](int64_t index) {
    std::vector<at::Tensor> parts;
    for (const PrefixValuesPtr& block : blocks) parts.push_back(block->values.select(0, index));
    return at::cat(parts);
  };
  for (int64_t layer = 0; layer < model->arch.layers; ++layer) {
    kv->k.push_back(joined(2 * layer));
    kv->v.push_back(joined(2 * layer + 1));
  }
  return {std::move(kv), static_cast<int64_t>(blocks.size()) * kBlock};
}

PrefixCache::Room PrefixCache::MakeRoom(const std::string& principal, const std::shared_ptr<const model::Model>& model,
                                        std::span<const int64_t> ids, uint64_t bytes_each) {
  PrefixBlocks::Dropped dropped;  // destroyed, and so released, behind the lock
  Room room{.bytes_each = bytes_each};
  const std::lock_guard lock(mutex_);
  blocks_.DropGone(dropped);
  room.known = blocks_.Walk(principal, model, ids).size();
  const size_t missing = PrefixBlocks::WholeBlocks(ids) - room.known;
  while (room.blocks < missing && blocks_.Expect(principal, bytes_each, options_.max_bytes, dropped)) ++room.blocks;
  metrics_.SetPrefixCacheBytes(blocks_.bytes());
  return room;
}

void PrefixCache::Put(const std::string& principal, const std::shared_ptr<const model::Model>& model, std::span<const int64_t> ids,
                      const model::KvPrefix& kv) {
  if (PrefixBlocks::WholeBlocks(ids) == 0) return;
  uint64_t bytes = kv.k.front().element_size();
  for (const int64_t size : ShapeOf(kv)) bytes *= static_cast<uint64_t>(size);
  if (bytes > options_.max_bytes) return;
  const c10::InferenceMode no_gradients;
  const Room room = MakeRoom(principal, model, ids, bytes);
  if (room.blocks == 0) return;
  std::vector<PrefixValuesPtr> made;
  std::exception_ptr failure;
  try {
    for (size_t i = 0; i < room.blocks; ++i) {
      const auto values = std::make_shared<PrefixValues>(*this);
      if (!options_.reserve(bytes)) break;
      values->bytes = bytes;
      values->values = CopyOf(kv, room.known + i);
      made.push_back(values);
    }
  } catch (...) {
    failure = std::current_exception();
  }
  Insert(principal, model, ids, room, made);
  if (failure) std::rethrow_exception(failure);
}

void PrefixCache::Insert(const std::string& principal, const std::shared_ptr<const model::Model>& model, std::span<const int64_t> ids,
                         const Room& room, std::span<const PrefixValuesPtr> made) {
  const std::lock_guard lock(mutex_);
  blocks_.Unexpect(principal, room.blocks * room.bytes_each);
  const auto owed = static_cast<size_t>(std::min<uint64_t>((owed_bytes_ + room.bytes_each - 1) / room.bytes_each, made.size()));
  owed_bytes_ = std::min(owed_bytes_ - std::min(owed_bytes_, owed * room.bytes_each), blocks_.expected_bytes());
  blocks_.Insert(principal, model, ids, room.known, made.first(made.size() - owed), room.bytes_each);
  metrics_.SetPrefixCacheBytes(blocks_.bytes());
}

void PrefixCache::GiveBack(uint64_t bytes) {
  PrefixBlocks::Dropped dropped;
  const std::lock_guard lock(mutex_);
  uint64_t released = 0, in_use = 0;
  while (released < bytes) {
    PrefixValuesPtr values = blocks_.DropOne();
    if (values == nullptr) break;
    // References are handed out under the lock only: one that is the only one now remains it.
    (values.use_count() == 1 ? released : in_use) += values->bytes;
    dropped.push_back(std::move(values));
  }
  if (released + in_use < bytes) owed_bytes_ = std::min(blocks_.expected_bytes(), owed_bytes_ + bytes - released - in_use);
  metrics_.SetPrefixCacheBytes(blocks_.bytes());
}

uint64_t PrefixCache::bytes() const {
  const std::lock_guard lock(mutex_);
  return blocks_.bytes();
}

}  // namespace fluoroscope::generate
