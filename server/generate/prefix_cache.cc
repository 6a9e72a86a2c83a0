#include "generate/prefix_cache.h"

#include <c10/core/InferenceMode.h>

#include <iterator>
#include <utility>

#include "obs/metrics.h"

namespace fluoroscope::generate {
namespace {

std::vector<int64_t> IdsOfBlock(std::span<const int64_t> ids, size_t block) {
  const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(block) * PrefixCache::kBlock;
  return {begin, begin + PrefixCache::kBlock};
}

size_t WholeBlocks(std::span<const int64_t> ids) { return ids.size() / static_cast<size_t>(PrefixCache::kBlock); }

}  // namespace

PrefixCache::Block& PrefixCache::TopLocked(const std::string& principal, const std::shared_ptr<const model::Model>& model) {
  Tree& tree = trees_[{principal, model->weights_sha256, model.get()}];
  tree.model = model;
  return tree.top;
}

std::vector<PrefixCache::Block*> PrefixCache::WalkLocked(Block& top, std::span<const int64_t> ids) {
  std::vector<Block*> way;
  ++walk_;
  Block* here = &top;
  for (size_t i = 0; i < WholeBlocks(ids); ++i) {
    const auto next = here->children.find(IdsOfBlock(ids, i));
    if (next == here->children.end()) break;
    here = next->second.get();
    here->walk = walk_;
    way.push_back(here);
  }
  TouchLocked(way);
  return way;
}

void PrefixCache::TouchLocked(const std::vector<Block*>& way) {
  for (auto block = way.rbegin(); block != way.rend(); ++block) order_.splice(order_.begin(), order_, (*block)->place);
}

bool PrefixCache::DropOldestLocked() {
  if (order_.empty() || order_.back()->walk == walk_) return false;  // of the way that is being walked
  const Block* const oldest = order_.back();
  const uint64_t bytes = oldest->values.nbytes();
  order_.pop_back();
  auto& siblings = oldest->parent->children;
  siblings.erase(siblings.find(oldest->ids));
  bytes_ -= bytes;
  options_.release(bytes);
  return true;
}

// Those that are empty, and those of models that are gone: nobody asks for these any more.
void PrefixCache::DropTreesLocked() {
  for (auto& [key, tree] : trees_) {
    if (!tree.model.expired()) continue;
    std::vector<Block*> blocks;
    const auto add = [&](Block& of) {
      for (auto& [ids, child] : of.children) blocks.push_back(child.get());
    };
    add(tree.top);
    uint64_t bytes = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
      add(*blocks[i]);
      bytes += blocks[i]->values.nbytes();
      order_.erase(blocks[i]->place);
    }
    tree.top.children.clear();
    bytes_ -= bytes;
    options_.release(bytes);
    metrics_.SetPrefixCacheBytes(bytes_);
  }
  std::erase_if(trees_, [](const auto& entry) { return entry.second.top.children.empty(); });
}

PrefixCache::Found PrefixCache::Find(const std::string& principal, const std::shared_ptr<const model::Model>& model,
                                     std::span<const int64_t> ids) {
  std::vector<at::Tensor> blocks;
  const std::lock_guard lock(mutex_);  // also while copying: what is given back meanwhile must be free when GiveBack returns
  DropTreesLocked();
  const auto tree = trees_.find({principal, model->weights_sha256, model.get()});
  if (tree == trees_.end()) return {};
  for (const Block* block : WalkLocked(tree->second.top, ids)) blocks.push_back(block->values);
  if (blocks.empty()) return {};
  auto kv = std::make_shared<model::KvPrefix>();
  const auto joined = [&](int64_t index) {
    std::vector<at::Tensor> parts;
    for (const at::Tensor& block : blocks) parts.push_back(block.select(0, index));
    return at::cat(parts);
  };
  for (int64_t layer = 0; layer < model->arch.layers; ++layer) {
    kv->k.push_back(joined(2 * layer));
    kv->v.push_back(joined(2 * layer + 1));
  }
  return {std::move(kv), static_cast<int64_t>(blocks.size()) * kBlock};
}

void PrefixCache::Put(const std::string& principal, const std::shared_ptr<const model::Model>& model, std::span<const int64_t> ids,
                      const model::KvPrefix& kv) {
  const at::Tensor& first = kv.k.front();
  const std::vector<int64_t> shape = {2 * model->arch.layers, kBlock, first.size(1), first.size(2)};
  const uint64_t bytes = first.element_size() * static_cast<uint64_t>(shape[0] * shape[1] * shape[2] * shape[3]);
  if (WholeBlocks(ids) == 0 || bytes > options_.max_bytes) return;
  const c10::InferenceMode no_gradients;
  const std::lock_guard lock(mutex_);
  DropTreesLocked();
  Block* here = &TopLocked(principal, model);
  const std::vector<Block*> way = WalkLocked(*here, ids);
  if (!way.empty()) here = way.back();
  for (size_t i = way.size(); i < WholeBlocks(ids); ++i) {
    bool room = true;
    while (room && bytes_ + bytes > options_.max_bytes) room = DropOldestLocked();
    if (!room || !options_.reserve(bytes)) break;
    auto block = std::make_unique<Block>();
    try {
      block->values = at::empty(shape, first.options());
      for (int64_t layer = 0; layer < model->arch.layers; ++layer) {
        const auto take = [&](const std::vector<at::Tensor>& of) {
          return of[static_cast<size_t>(layer)].narrow(0, static_cast<int64_t>(i) * kBlock, kBlock);
        };
        block->values.select(0, 2 * layer).copy_(take(kv.k));
        block->values.select(0, 2 * layer + 1).copy_(take(kv.v));
      }
    } catch (...) {
      block.reset();
      options_.release(bytes);
      throw;
    }
    block->parent = here;
    block->ids = IdsOfBlock(ids, i);
    block->walk = walk_;
    // Behind its parent: nothing stands behind its own children, whatever is thrown.
    block->place = order_.insert(here->parent == nullptr ? order_.begin() : std::next(here->place), block.get());
    bytes_ += bytes;
    std::vector<int64_t> key = block->ids;
    here = here->children.emplace(std::move(key), std::move(block)).first->second.get();
  }
  metrics_.SetPrefixCacheBytes(bytes_);
}

void PrefixCache::GiveBack(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  ++walk_;  // nobody walks now
  const uint64_t had = bytes_;
  while (had - bytes_ < bytes && DropOldestLocked()) {
  }
  metrics_.SetPrefixCacheBytes(bytes_);
}

uint64_t PrefixCache::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace fluoroscope::generate
