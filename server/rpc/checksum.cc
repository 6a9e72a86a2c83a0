#include "rpc/checksum.h"

#define XXH_STATIC_LINKING_ONLY  // the size of its state
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>  // the widest vectors that this processor has: twice as fast as the ones all processors have
#else
#include <xxhash.h>
#endif

namespace fluoroscope::rpc {

struct Checksum::State {
  XXH3_state_t xxh;
};

Checksum::Checksum() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xxh); }
Checksum::~Checksum() = default;

void Checksum::Add(std::span<const std::byte> bytes) { XXH3_64bits_update(&state_->xxh, bytes.data(), bytes.size()); }
uint64_t Checksum::Value() const { return XXH3_64bits_digest(&state_->xxh); }

}  // namespace fluoroscope::rpc
