// Whatever the bytes of a Handles request are: no crash, and what is accepted keeps the codec's promises.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "rpc/codec_handles.h"

namespace {

namespace api = fluoroscope::api;
namespace rpc = fluoroscope::rpc;
namespace v1 = fluoroscope::v1;

void Require(bool condition) {
  if (!condition) std::abort();
}

template <typename T>
void CheckAscending(const std::vector<T>& numbers) {
  for (size_t i = 0; i < numbers.size(); ++i) Require(numbers[i] >= 0 && (i == 0 || numbers[i - 1] < numbers[i]));
}

void CheckHeader(const api::PutHeader& header) {
  Require(!header.model.empty() && !header.site.empty() && !header.shape.empty() && header.ttl_seconds > 0);
  uint64_t bytes = api::SizeOf(header.dtype);
  for (const int64_t size : header.shape) {
    Require(size > 0);
    Require(!__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes));
  }
  CheckAscending(header.positions);
  CheckAscending(header.heads);
  CheckAscending(header.units);
  for (const int64_t id : header.token_ids) Require(id >= 0);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  v1::PutRequest put;
  if (put.ParseFromArray(data, static_cast<int>(size)) && rpc::CheckPut(put).ok() && put.has_header()) {
    if (const auto header = rpc::DecodePutHeader(put.header()); header.ok()) CheckHeader(*header);
  }
  v1::GetHandleRequest get;
  if (get.ParseFromArray(data, static_cast<int>(size))) {
    if (const auto slice = rpc::DecodeGetHandle(get); slice.ok())
      Require(!slice->id.empty() && (!slice->positions || !slice->positions->empty()));
  }
  v1::RenewHandleRequest renew;
  if (renew.ParseFromArray(data, static_cast<int>(size))) {
    if (const auto lease = rpc::DecodeRenewHandle(renew); lease.ok()) Require(!lease->id.empty() && lease->ttl_seconds > 0);
  }
  return 0;
}
