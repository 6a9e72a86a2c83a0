// Keys and values of tokens that have run, kept from one generation to the next.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "model/kv_prefix.h"
#include "model/model.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::generate {

// What a position's keys and values are depends on the tokens up to there and on nothing else, as long as nobody edits: so a sequence is
// cut into blocks of tokens, and blocks form a tree in which the way from the top is the sequence. Every principal has its own tree for
// every model: how fast an answer comes would tell what others have asked. The blocks that were used longest ago are let go first.
// Find and Put are for the executor's thread; GiveBack for any.
class PrefixCache {
 public:
  struct Options {
    uint64_t max_bytes = 0;  // 0: keeps nothing
    // Take and give back bytes of the memory budget (Executor::ReserveSpare). Called with the mutex held.
    std::function<bool(uint64_t)> reserve = [](uint64_t) { return true; };
    std::function<void(uint64_t)> release = [](uint64_t) {};
  };

  // Tokens in a block. What is left of a sequence behind its last whole block is not kept.
  static constexpr int64_t kBlock = 16;

  PrefixCache(Options options, obs::Metrics& metrics) : options_(std::move(options)), metrics_(metrics) {}
  // From here on `release` is not called.
  ~PrefixCache() = default;
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // A copy of what is known of the beginning of `ids`: whole blocks. What LibTorch throws passes through.
  struct Found {
    std::shared_ptr<const model::KvPrefix> kv;  // null when nothing is
    int64_t size = 0;                           // positions
  };
  Found Find(const std::string& principal, const std::shared_ptr<const model::Model>& model, std::span<const int64_t> ids);

  // Keeps copies of the whole blocks of `ids` that are not there yet, as far as there is room. `kv` has these positions at least. What
  // LibTorch throws passes through; the blocks before are kept then.
  void Put(const std::string& principal, const std::shared_ptr<const model::Model>& model, std::span<const int64_t> ids,
           const model::KvPrefix& kv);

  // Lets go of so many bytes at least, or of everything.
  void GiveBack(uint64_t bytes);

  uint64_t bytes() const;

 private:
  struct Block {
    Block* parent = nullptr;
    std::vector<int64_t> ids;
    at::Tensor values;  // [2 * layers, kBlock, kv_heads, d_head]: k and v of each layer in turn
    std::map<std::vector<int64_t>, std::unique_ptr<Block>> children;
    std::list<Block*>::iterator place;  // in order_
    uint64_t walk = 0;                  // the last that came by
  };
  struct Tree {
    std::weak_ptr<const model::Model> model;  // once it has gone, an equal address is another model
    Block top;                                // no block itself
  };

  Block& TopLocked(const std::string& principal, const std::shared_ptr<const model::Model>& model);
  // The blocks that `ids` begins with, and marks them as used just now.
  std::vector<Block*> WalkLocked(Block& top, std::span<const int64_t> ids);
  // Puts them in front, the first foremost: a block stands behind its parent always, so the last in order_ has no children.
  void TouchLocked(const std::vector<Block*>& way);
  bool DropOldestLocked();
  void DropTreesLocked();

  const Options options_;
  obs::Metrics& metrics_;
  mutable std::mutex mutex_;
  // By principal, the weights' hash, and the model: the same weights may be there in several dtypes or under several configurations.
  std::map<std::tuple<std::string, std::string, const model::Model*>, Tree> trees_;
  std::list<Block*> order_;  // last used first
  uint64_t bytes_ = 0, walk_ = 0;
};

}  // namespace fluoroscope::generate
