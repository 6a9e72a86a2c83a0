// XXH3-64, as every reply's checksum.
#pragma once

#define XXH_STATIC_LINKING_ONLY  // the size of its state
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include <cstddef>
#include <cstdint>
#include <memory>

namespace fluoroscope::bench {

class Hash {
 public:
  Hash() { XXH3_64bits_reset(state_.get()); }
  void Add(const void* data, size_t size) { XXH3_64bits_update(state_.get(), data, size); }
  uint64_t Value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t> state_ = std::make_unique<XXH3_state_t>();
};

}  // namespace fluoroscope::bench
