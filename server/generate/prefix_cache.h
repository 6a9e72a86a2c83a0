// Keys and values of tokens that have run, kept from one generation to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "generate/prefix_blocks.h"
#include "model/kv_prefix.h"
#include "model/model.h"

namespace fluoroscope::obs {
class Metrics;
}

namespace fluoroscope::generate {

// What a position's keys and values are depends on the tokens up to there and on nothing else, as long as nobody edits: so blocks of them
// are kept by the tokens that lead there (prefix_blocks.h). Every principal finds only its own: how fast an answer comes would tell what
// others have asked. When there is no room, the principal that holds most makes it, by what it used longest ago: so none that holds less
// than its fair share (max_bytes divided by the principals with blocks) loses a block to others' generations.
//
// Owns the blocks. Their values never change and are held by reference, so they are copied, made and destroyed with no lock held; bytes go
// back to the budget when a block's last reference does. Methods may be called from any thread; Find and Put copy, and are meant for the
// executor's.
class PrefixCache {
 public:
  struct Options {
    uint64_t max_bytes = 0;  // 0: keeps nothing
    // Take and give back bytes of the memory budget (Executor::ReserveSpare). Called without locks, from any thread that is in a method.
    std::function<bool(uint64_t)> reserve = [](uint64_t) { return true; };
    std::function<void(uint64_t)> release = [](uint64_t) {};
  };

  // Tokens in a block. What is left of a sequence behind its last whole block is not kept.
  static constexpr int64_t kBlock = PrefixBlocks::kBlock;

  PrefixCache(Options options, obs::Metrics& metrics) : options_(std::move(options)), metrics_(metrics) {}
  // Nobody is in a method. From here on `release` is not called.
  ~PrefixCache() { closing_ = true; }
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

  // Lets go of so many bytes at least, or of everything. They have been released when it returns, but for what a Find or a Put is copying
  // at this moment: that is released when it has its copy.
  void GiveBack(uint64_t bytes);

  // What can be found.
  uint64_t bytes() const;

 private:
  friend struct PrefixValues;

  struct Room {
    uint64_t bytes_each = 0;       // of a block
    size_t known = 0, blocks = 0;  // found; to come behind these
  };
  // Makes room for the blocks of `ids` that are not there.
  Room MakeRoom(const std::string& principal, const std::shared_ptr<const model::Model>& model, std::span<const int64_t> ids,
                uint64_t bytes_each);
  // Takes what was made for that room, but for what is there by now, or wanted back; the caller destroys what is not taken.
  void Insert(const std::string& principal, const std::shared_ptr<const model::Model>& model, std::span<const int64_t> ids,
              const Room& room, std::span<const PrefixValuesPtr> made);

  const Options options_;
  obs::Metrics& metrics_;
  bool closing_ = false;
  mutable std::mutex mutex_;  // guards what follows. Neither values are copied or destroyed with it held, nor reserve and release called
  PrefixBlocks blocks_;
  uint64_t owed_bytes_ = 0;  // of what Puts are copying: wanted back already
};

}  // namespace fluoroscope::generate
