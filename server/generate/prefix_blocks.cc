#include "generate/prefix_blocks.h"

#include <iterator>
#include <utility>

namespace fluoroscope::generate {
namespace {

std::vector<int64_t> IdsOfBlock(std::span<const int64_t> ids, size_t block) {
  const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(block) * PrefixBlocks::kBlock;
  return {begin, begin + PrefixBlocks::kBlock};
}

}  // namespace

std::vector<PrefixBlocks::Block*> PrefixBlocks::WalkBlocks(const std::string& principal, const ModelPtr& model,
                                                           std::span<const int64_t> ids) {
  ++walk_;
  std::vector<Block*> way;
  const auto tree = trees_.find({principal, model->weights_sha256, model.get()});
  if (tree == trees_.end()) return way;
  Block* here = &tree->second.top;
  for (size_t i = 0; i < WholeBlocks(ids); ++i) {
    const auto next = here->children.find(IdsOfBlock(ids, i));
    if (next == here->children.end()) break;
    here = next->second.get();
    here->walk = walk_;
    way.push_back(here);
  }
  // In front, the first foremost.
  for (auto block = way.rbegin(); block != way.rend(); ++block) {
    std::list<Block*>& order = (*block)->owner->order;
    order.splice(order.begin(), order, (*block)->place);
  }
  return way;
}

std::vector<PrefixValuesPtr> PrefixBlocks::Walk(const std::string& principal, const ModelPtr& model, std::span<const int64_t> ids) {
  std::vector<PrefixValuesPtr> values;
  for (const Block* block : WalkBlocks(principal, model, ids)) values.push_back(block->values);
  return values;
}

size_t PrefixBlocks::Insert(const std::string& principal, const ModelPtr& model, std::span<const int64_t> ids, size_t known,
                            std::span<const PrefixValuesPtr> values, uint64_t bytes_each) {
  const std::vector<Block*> way = WalkBlocks(principal, model, ids);
  if (way.size() < known || way.size() - known >= values.size()) return 0;
  Owner& owner = owners_[principal];
  Tree& tree = trees_[{principal, model->weights_sha256, model.get()}];
  tree.model = model;
  Block* here = way.empty() ? &tree.top : way.back();
  for (size_t i = way.size(); i < known + values.size(); ++i) {
    auto block = std::make_unique<Block>();
    block->parent = here;
    block->owner = &owner;
    block->ids = IdsOfBlock(ids, i);
    block->values = values[i - known];
    block->bytes = bytes_each;
    block->walk = walk_;
    // Behind its parent: nothing stands behind its own children.
    block->place = owner.order.insert(here->parent == nullptr ? owner.order.begin() : std::next(here->place), block.get());
    owner.bytes += bytes_each;
    bytes_ += bytes_each;
    std::vector<int64_t> key = block->ids;
    here = here->children.emplace(std::move(key), std::move(block)).first->second.get();
  }
  return known + values.size() - way.size();
}

bool PrefixBlocks::Expect(const std::string& principal, uint64_t bytes, uint64_t limit, Dropped& dropped) {
  Owner& owner = owners_[principal];
  owner.expected_bytes += bytes;
  expected_bytes_ += bytes;
  while (bytes_ + expected_bytes_ > limit) {
    PrefixValuesPtr values = DropOfLargest(/*spare_way=*/true);
    if (values == nullptr) {
      Unexpect(principal, bytes);
      return false;
    }
    dropped.push_back(std::move(values));
  }
  return true;
}

void PrefixBlocks::Unexpect(const std::string& principal, uint64_t bytes) {
  const auto owner = owners_.find(principal);
  owner->second.expected_bytes -= bytes;
  expected_bytes_ -= bytes;
  if (owner->second.held() == 0) owners_.erase(owner);
}

PrefixValuesPtr PrefixBlocks::DropOne() { return DropOfLargest(/*spare_way=*/false); }

PrefixValuesPtr PrefixBlocks::DropOfLargest(bool spare_way) {
  const Owner* largest = nullptr;
  const auto last_used = [](const Owner& owner) { return owner.order.empty() ? UINT64_MAX : owner.order.back()->walk; };
  for (const auto& [principal, owner] : owners_) {
    if (!spare_way && owner.order.empty()) continue;
    if (largest == nullptr || owner.held() > largest->held() || (owner.held() == largest->held() && last_used(owner) < last_used(*largest)))
      largest = &owner;
  }
  if (largest == nullptr || largest->order.empty()) return nullptr;
  Block* const oldest = largest->order.back();
  if (spare_way && oldest->walk == walk_) return nullptr;
  PrefixValuesPtr values = std::move(oldest->values);
  Forget(*oldest);
  auto& siblings = oldest->parent->children;
  siblings.erase(siblings.find(oldest->ids));
  DropEmpty();
  return values;
}

// Its place and its bytes; the block itself is still in its tree.
void PrefixBlocks::Forget(const Block& block) {
  block.owner->order.erase(block.place);
  block.owner->bytes -= block.bytes;
  bytes_ -= block.bytes;
}

void PrefixBlocks::DropGone(Dropped& dropped) {
  for (auto& [key, tree] : trees_) {
    if (!tree.model.expired()) continue;
    std::vector<Block*> blocks;
    const auto add = [&](Block& of) {
      for (auto& [ids, child] : of.children) blocks.push_back(child.get());
    };
    add(tree.top);
    for (size_t i = 0; i < blocks.size(); ++i) {
      add(*blocks[i]);
      dropped.push_back(std::move(blocks[i]->values));
      Forget(*blocks[i]);
    }
    tree.top.children.clear();
  }
  std::erase_if(trees_, [](const auto& entry) { return entry.second.top.children.empty(); });
  DropEmpty();
}

void PrefixBlocks::DropEmpty() {
  std::erase_if(owners_, [](const auto& entry) { return entry.second.held() == 0; });
}

}  // namespace fluoroscope::generate
