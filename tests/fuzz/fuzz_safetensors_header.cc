// Whatever the bytes are: no crash, and what is accepted lies inside the file, tensor beside tensor. The same bytes are also tried as an
// index, which shares the JSON reader.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "tensor/safetensors_header.h"
#include "tensor/safetensors_index.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace tensor = fluoroscope::tensor;
  const auto header = tensor::ParseHeader(std::as_bytes(std::span(data, size)), size);
  if (header.ok()) {
    uint64_t total = header->data_begin;
    for (const auto& [name, entry] : header->tensors) {
      Require(entry.begin >= header->data_begin && entry.begin <= entry.end && entry.end <= size);
      uint64_t elements = 1;
      for (const int64_t dimension : entry.shape) elements *= static_cast<uint64_t>(dimension);
      Require(elements * tensor::SizeOf(entry.dtype) == entry.end - entry.begin);
      total += entry.end - entry.begin;
    }
    Require(total == size);
  }
  const auto files = tensor::ParseIndex({reinterpret_cast<const char*>(data), size});
  if (files.ok()) {
    for (const auto& [name, file] : *files) Require(file.find('/') == std::string::npos && file.find("..") == std::string::npos);
  }
  return 0;
}
