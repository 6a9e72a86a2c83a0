#include "tensor/safetensors_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "tensor/strict_json.h"

namespace fluoroscope::tensor {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian and is used without a copy");

struct DTypeSpec {
  FileDType dtype;
  std::string_view name;
  size_t size;
};
constexpr std::array kDTypes = {
    DTypeSpec{FileDType::kBool, "BOOL", 1},      DTypeSpec{FileDType::kU8, "U8", 1},          DTypeSpec{FileDType::kI8, "I8", 1},
    DTypeSpec{FileDType::kF8E5M2, "F8_E5M2", 1}, DTypeSpec{FileDType::kF8E4M3, "F8_E4M3", 1}, DTypeSpec{FileDType::kI16, "I16", 2},
    DTypeSpec{FileDType::kU16, "U16", 2},        DTypeSpec{FileDType::kF16, "F16", 2},        DTypeSpec{FileDType::kBF16, "BF16", 2},
    DTypeSpec{FileDType::kI32, "I32", 4},        DTypeSpec{FileDType::kU32, "U32", 4},        DTypeSpec{FileDType::kF32, "F32", 4},
    DTypeSpec{FileDType::kI64, "I64", 8},        DTypeSpec{FileDType::kU64, "U64", 8},        DTypeSpec{FileDType::kF64, "F64", 8},
};

const DTypeSpec& SpecOf(FileDType dtype) {
  return *std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeSpec& spec) { return spec.dtype == dtype; });
}

// Names come from the file: printable and of bounded length before they go into a message.
std::string Quoted(std::string_view name) {
  constexpr size_t kLongest = 100;
  const bool cut = name.size() > kLongest;
  return absl::StrCat("\"", absl::CEscape({name.data(), cut ? kLongest : name.size()}), cut ? "…\"" : "\"");
}

absl::Status Bad(const std::string& tensor, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor), ": ", what));
}

// The numbers of a list of whole numbers >= 0 that fit int64; nothing for anything else.
std::optional<std::vector<int64_t>> WholeNumbers(const json& array) {
  if (!array.is_array()) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const json& item : array) {
    // Numbers that are not negative are parsed as unsigned; those beyond 64 bits as floating point.
    if (!item.is_number_unsigned() || item.get<uint64_t>() > std::numeric_limits<int64_t>::max()) return std::nullopt;
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

absl::StatusOr<TensorEntry> ParseEntry(const std::string& name, const json& value, uint64_t data_begin, uint64_t data_size) {
  if (!value.is_object()) return Bad(name, "its description is not an object");
  for (const auto& [key, unused] : value.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") return Bad(name, absl::StrCat("unknown field ", Quoted(key)));
  }
  const auto dtype_name = value.find("dtype");
  if (dtype_name == value.end() || !dtype_name->is_string()) return Bad(name, "dtype is missing or not a string");
  const auto dtype = FileDTypeNamed(dtype_name->get_ref<const std::string&>());
  if (!dtype) return Bad(name, absl::StrCat("unknown dtype ", Quoted(dtype_name->get_ref<const std::string&>())));

  const auto shape = value.contains("shape") ? WholeNumbers(value["shape"]) : std::nullopt;
  if (!shape) return Bad(name, "shape is missing or not a list of whole numbers >= 0");
  uint64_t bytes = SizeOf(*dtype);
  for (const int64_t size : *shape) {
    // Also when another size is 0: LibTorch multiplies strides that would overflow all the same.
    if (__builtin_mul_overflow(bytes, std::max<uint64_t>(static_cast<uint64_t>(size), 1), &bytes) ||
        bytes > std::numeric_limits<int64_t>::max()) {
      return Bad(name, absl::StrCat("shape [", absl::StrJoin(*shape, ", "), "] is too large: its bytes overflow 63 bits"));
    }
  }
  if (std::find(shape->begin(), shape->end(), 0) != shape->end()) bytes = 0;

  const auto offsets = value.contains("data_offsets") ? WholeNumbers(value["data_offsets"]) : std::nullopt;
  if (!offsets || offsets->size() != 2) return Bad(name, "data_offsets is missing or not two whole numbers >= 0");
  const uint64_t begin = static_cast<uint64_t>((*offsets)[0]), end = static_cast<uint64_t>((*offsets)[1]);
  const std::string range = absl::StrCat("data_offsets [", begin, ", ", end, "]");
  if (end < begin) return Bad(name, absl::StrCat(range, " end before they begin"));
  if (end > data_size) {
    return Bad(name, absl::StrCat(range, " reach outside the file, which has ", data_size, " bytes of data; was it cut off?"));
  }
  if (end - begin != bytes) {
    return Bad(name, absl::StrCat(range, " hold ", end - begin, " bytes, but ", std::string(NameOf(*dtype)), " of shape [",
                                  absl::StrJoin(*shape, ", "), "] needs ", bytes));
  }
  return TensorEntry{*dtype, *shape, data_begin + begin, data_begin + end};
}

// The format wants the tensors to tile the data: a hole could hide something, an overlap is a lie.
absl::Status CheckTiling(const Header& header, uint64_t file_size) {
  std::vector<std::pair<const std::string*, const TensorEntry*>> order;
  for (const auto& [name, entry] : header.tensors) order.emplace_back(&name, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  uint64_t covered = header.data_begin;
  const std::string* previous = nullptr;
  for (const auto& [name, entry] : order) {
    if (entry->begin < covered) return Bad(*name, absl::StrCat("its bytes overlap those of ", Quoted(*previous)));
    if (entry->begin > covered) {
      return Bad(*name, absl::StrCat("there is a hole of ", entry->begin - covered, " bytes before it that belongs to no tensor"));
    }
    covered = entry->end;
    previous = name;
  }
  if (covered != file_size) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", file_size - covered, " bytes behind the last tensor",
                                                   previous ? absl::StrCat(" ", Quoted(*previous)) : "", " that belong to no tensor"));
  }
  return absl::OkStatus();
}

}  // namespace

size_t SizeOf(FileDType dtype) { return SpecOf(dtype).size; }
std::string_view NameOf(FileDType dtype) { return SpecOf(dtype).name; }

std::optional<FileDType> FileDTypeNamed(std::string_view name) {
  for (const DTypeSpec& spec : kDTypes) {
    if (spec.name == name) return spec.dtype;
  }
  return std::nullopt;
}

absl::StatusOr<Header> ParseHeader(std::span<const std::byte> prefix, uint64_t file_size) {
  uint64_t length = 0;
  if (file_size < sizeof(length) || prefix.size() < sizeof(length)) {
    return absl::InvalidArgumentError(absl::StrCat("a safetensors file begins with an 8-byte length, this one has ", file_size, " bytes"));
  }
  std::memcpy(&length, prefix.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the header says it has ", length, " bytes, more than the allowed ", kMaxHeaderBytes));
  }
  if (length > file_size - sizeof(length)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the header says it has ", length, " bytes, but the file has only ", file_size, "; was it cut off?"));
  }
  if (length > prefix.size() - sizeof(length)) return absl::InvalidArgumentError("the given bytes do not hold the whole header");

  const std::string_view text(reinterpret_cast<const char*>(prefix.data()) + sizeof(length), length);
  if (!text.starts_with('{')) return absl::InvalidArgumentError("the header does not begin with '{'");
  auto parsed = ParseStrictJson(text, 3);  // {name: {"shape": [..]}}
  if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat("the header: ", parsed.status().message()));

  Header header;
  header.data_begin = sizeof(length) + length;
  for (const auto& [name, value] : parsed->items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return absl::InvalidArgumentError("__metadata__ is not an object");
      for (const auto& [key, item] : value.items()) {
        if (!item.is_string())
          return absl::InvalidArgumentError(absl::StrCat("__metadata__: the value of ", Quoted(key), " is not a string"));
        header.metadata[key] = item.get<std::string>();
      }
      continue;
    }
    FS_ASSIGN_OR_RETURN(header.tensors[name], ParseEntry(name, value, header.data_begin, file_size - header.data_begin));
  }
  FS_RETURN_IF_ERROR(CheckTiling(header, file_size));
  return header;
}

}  // namespace fluoroscope::tensor
