// Which blocks of which sequences there are, for whom, and which of them go first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "model/model.h"

namespace fluoroscope::generate {

// The keys and values of one block; opaque here.
struct PrefixValues;
using PrefixValuesPtr = std::shared_ptr<const PrefixValues>;

// A sequence is cut into blocks of tokens, and blocks form a tree in which the way from the top is the sequence: one tree for every
// principal and model. Owns the trees and one reference to each block's values; what is dropped is handed to the caller, who destroys it
// where that may take a while. All blocks have a size of their model's.
//
// Who makes room is the principal that holds most, and of its blocks the one used longest ago. So a principal that holds less than its fair
// share (all that may be held, divided by the principals with blocks) loses nothing to others: somebody else holds more then.
//
// Not synchronized: whoever owns it holds a lock over each call. Calls no LibTorch.
class PrefixBlocks {
 public:
  static constexpr int64_t kBlock = 16;  // tokens
  using Dropped = std::vector<PrefixValuesPtr>;
  using ModelPtr = std::shared_ptr<const model::Model>;

  PrefixBlocks() = default;
  PrefixBlocks(const PrefixBlocks&) = delete;
  PrefixBlocks& operator=(const PrefixBlocks&) = delete;

  static size_t WholeBlocks(std::span<const int64_t> ids) { return ids.size() / static_cast<size_t>(kBlock); }

  // The blocks that `ids` begins with; marks them as used just now.
  std::vector<PrefixValuesPtr> Walk(const std::string& principal, const ModelPtr& model, std::span<const int64_t> ids);

  // Puts `values` behind the first `known` blocks of `ids`, of which the last must be there. Those that are there already, and all when
  // that one is not, are not taken. Returns how many were.
  size_t Insert(const std::string& principal, const ModelPtr& model, std::span<const int64_t> ids, size_t known,
                std::span<const PrefixValuesPtr> values, uint64_t bytes_each);

  // Makes room for `bytes` more of this principal's, which count as its own from here on until Unexpect: drops blocks until what is held
  // and expected is at most `limit`. None of the way walked last is dropped. False, and nothing is expected, when that is not enough.
  bool Expect(const std::string& principal, uint64_t bytes, uint64_t limit, Dropped& dropped);
  void Unexpect(const std::string& principal, uint64_t bytes);

  // Drops one block. Null when there is none.
  PrefixValuesPtr DropOne();

  // Drops the blocks of models that are gone: nobody asks for these any more. Afterwards an equal address is another model.
  void DropGone(Dropped& dropped);

  uint64_t bytes() const { return bytes_; }
  uint64_t expected_bytes() const { return expected_bytes_; }

 private:
  struct Owner;
  struct Block {
    Block* parent = nullptr;
    Owner* owner = nullptr;
    std::vector<int64_t> ids;
    PrefixValuesPtr values;
    uint64_t bytes = 0;
    std::map<std::vector<int64_t>, std::unique_ptr<Block>> children;
    std::list<Block*>::iterator place;  // in the owner's order
    uint64_t walk = 0;                  // the last that came by
  };
  struct Tree {
    std::weak_ptr<const model::Model> model;
    Block top;  // no block itself
  };
  struct Owner {                             // a principal with blocks, or with some on their way
    std::list<Block*> order;                 // last used first; a block stands behind its parent always, so the last has no children
    uint64_t bytes = 0, expected_bytes = 0;  // in here, and to come
    uint64_t held() const { return bytes + expected_bytes; }
  };
  using Key = std::tuple<std::string, std::string, const model::Model*>;

  std::vector<Block*> WalkBlocks(const std::string& principal, const ModelPtr& model, std::span<const int64_t> ids);
  // One block of whom holds most; of several such, the one used longest ago. Null when that is of the way walked last.
  PrefixValuesPtr DropOfLargest(bool spare_way);
  void Forget(const Block& block);
  void DropEmpty();

  // By principal, the weights' hash, and the model: the same weights may be there in several dtypes or under several configurations.
  std::map<Key, Tree> trees_;
  std::map<std::string, Owner> owners_;
  uint64_t bytes_ = 0, expected_bytes_ = 0, walk_ = 0;
};

}  // namespace fluoroscope::generate
