// Caches of prefixes of a tiny model, and what is put there.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "generate/prefix_cache.h"
#include "obs/metrics.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::generate {

constexpr int64_t kBlock = PrefixCache::kBlock;

inline std::vector<int64_t> Ids(int64_t from, int64_t size) {
  std::vector<int64_t> ids(static_cast<size_t>(size));
  std::iota(ids.begin(), ids.end(), from);
  return ids;
}

class PrefixCacheTest : public testing::Test {
 protected:
  // Keys and values as they might be of so many positions, every number another.
  model::KvPrefix Values(int64_t positions, int64_t from = 0) const {
    const model::Architecture& arch = model_->arch;
    model::KvPrefix kv;
    for (int64_t layer = 0; layer < arch.layers; ++layer) {
      const int64_t size = positions * arch.kv_heads * arch.d_head;
      kv.k.push_back(at::arange(size, at::kFloat).view({positions, arch.kv_heads, arch.d_head}) + (1000 * layer + 1e5 * from));
      kv.v.push_back(-kv.k.back());
    }
    return kv;
  }
  uint64_t BlockBytes() const {
    return static_cast<uint64_t>(2 * model_->arch.layers * kBlock * model_->arch.kv_heads * model_->arch.d_head) * sizeof(float);
  }
  // Room for so many blocks, of a budget of `budget_`.
  std::unique_ptr<PrefixCache> Cache(uint64_t blocks) {
    const auto reserve = [this](uint64_t bytes) {
      if (on_reserve_) on_reserve_();
      if ((reserved_ += bytes) <= budget_) return true;
      reserved_ -= bytes;
      return false;
    };
    const auto release = [this](uint64_t bytes) {
      reserved_ -= bytes;
      if (on_release_) on_release_();
    };
    return std::make_unique<PrefixCache>(PrefixCache::Options{.max_bytes = blocks * BlockBytes(), .reserve = reserve, .release = release},
                                         metrics_);
  }
  int64_t Known(PrefixCache& cache, const std::vector<int64_t>& ids, const std::string& principal = "me") {
    return cache.Find(principal, model_, ids).size;
  }

  std::shared_ptr<const model::Model> model_ = model::TinyLlama();
  obs::Metrics metrics_;
  std::atomic<uint64_t> reserved_ = 0;
  uint64_t budget_ = uint64_t{1} << 40;
  std::function<void()> on_reserve_, on_release_;
};

}  // namespace fluoroscope::generate
