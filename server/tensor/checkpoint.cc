#include "tensor/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "tensor/dtype.h"
#include "tensor/mapped_file.h"
#include "tensor/runtime_errors.h"
#include "tensor/safetensors_header.h"
#include "tensor/safetensors_index.h"

namespace fluoroscope::tensor {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

struct Shard {
  std::string name;
  std::shared_ptr<const MappedFile> file;  // shared with the tensors that View has given out
  Header header;
};

absl::Status WithContext(const absl::Status& status, const std::string& context) {
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

absl::StatusOr<Shard> OpenShard(const std::filesystem::path& directory, const std::string& name) {
  FS_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open((directory / name).string()));
  absl::StatusOr<Header> header = ParseHeader(file.bytes(), file.size());
  if (!header.ok()) return WithContext(header.status(), name);
  return Shard{name, std::make_shared<const MappedFile>(std::move(file)), *std::move(header)};
}

bool IsPickle(const std::filesystem::path& file) {
  const std::string extension = file.extension().string();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt" || extension == ".pkl";
}

// Neither a single file nor an index is there: say what to do about it.
absl::Status NoWeights(const std::string& directory) {
  std::error_code error;
  std::vector<std::string> pickles;
  auto it = std::filesystem::directory_iterator(directory, error);
  if (error) return absl::NotFoundError(absl::StrCat("cannot read the model directory ", directory, ": ", error.message()));
  for (; it != std::filesystem::directory_iterator() && !error; it.increment(error)) {
    if (IsPickle(it->path())) pickles.push_back(it->path().filename().string());
  }
  if (pickles.empty()) return absl::NotFoundError(absl::StrCat(directory, " has neither ", kSingleFile, " nor ", kIndexFile));
  std::sort(pickles.begin(), pickles.end());
  return absl::FailedPreconditionError(
      absl::StrCat(directory, " has only pickled weights (", pickles.front(), pickles.size() > 1 ? ", …" : "",
                   "), which are refused because reading them runs code from the file. Convert them where you trust them: python -c \"from "
                   "transformers import AutoModelForCausalLM as M; M.from_pretrained('DIRECTORY').save_pretrained('DIRECTORY')\""));
}

std::string Shape(at::IntArrayRef shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

// LibTorch splits a copy among its threads from 32,768 elements on. Loading runs beside the executor, which owns those threads, so convert
// in pieces that stay below.
void ConvertOnThisThread(const at::Tensor& from, const at::Tensor& to) {
  constexpr int64_t kPiece = 16384;
  const at::Tensor source = from.view({-1}), target = to.view({-1});
  for (int64_t begin = 0; begin < source.numel(); begin += kPiece) {
    const int64_t count = std::min(kPiece, source.numel() - begin);
    target.narrow(0, begin, count).copy_(source.narrow(0, begin, count));
  }
}

}  // namespace

struct Checkpoint::Impl {
  struct Place {
    const Shard* shard;
    const TensorEntry* entry;
  };
  std::vector<Shard> shards;  // by name; not changed after Open, so that `places` may point into it
  std::map<std::string, Place> places;
  std::map<std::string, std::string> metadata;

  std::mutex hash_mutex;
  std::optional<std::string> hash;

  void AddAll() {
    for (const Shard& shard : shards) {
      for (const auto& [name, entry] : shard.header.tensors) places[name] = {&shard, &entry};
    }
  }
  absl::Status AddIndexed(const std::map<std::string, std::string>& files);
  absl::StatusOr<Place> Find(const std::string& name) const;
};

absl::Status Checkpoint::Impl::AddIndexed(const std::map<std::string, std::string>& files) {
  for (const auto& [name, file] : files) {
    const auto shard = std::find_if(shards.begin(), shards.end(), [&](const Shard& candidate) { return candidate.name == file; });
    const auto entry = shard->header.tensors.find(name);
    if (entry == shard->header.tensors.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(kIndexFile, ": tensor \"", absl::CEscape(name), "\" should be in ", file, ", which does not have it"));
    }
    places[name] = {&*shard, &entry->second};
  }
  std::set<std::string> seen;
  for (const Shard& shard : shards)
    for (const auto& [name, entry] : shard.header.tensors)
      if (!seen.insert(name).second)
        return absl::InvalidArgumentError(
            absl::StrCat("tensor \"", absl::CEscape(name), "\" is in more than one shard; ", shard.name, " is one"));
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint::Impl::Place> Checkpoint::Impl::Find(const std::string& name) const {
  const auto found = places.find(name);
  if (found != places.end()) return found->second;
  return absl::NotFoundError(absl::StrCat("the checkpoint has no tensor \"", name, "\" among its ", places.size()));
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& directory) {
  const std::filesystem::path root(directory);
  auto impl = std::make_unique<Impl>();
  std::error_code error;
  if (std::filesystem::exists(root / kSingleFile, error)) {
    FS_ASSIGN_OR_RETURN(Shard shard, OpenShard(root, kSingleFile));
    impl->shards.push_back(std::move(shard));
    impl->AddAll();
  } else if (std::filesystem::exists(root / kIndexFile, error)) {
    FS_ASSIGN_OR_RETURN(const MappedFile index, MappedFile::Open((root / kIndexFile).string()));
    const auto files = ParseIndex({reinterpret_cast<const char*>(index.bytes().data()), index.size()});
    if (!files.ok()) return WithContext(files.status(), kIndexFile);
    std::set<std::string> names;
    for (const auto& [tensor, file] : *files) names.insert(file);
    for (const std::string& name : names) {
      if (!std::filesystem::exists(root / name, error)) {
        return absl::NotFoundError(absl::StrCat(kIndexFile, " names the shard ", name, ", which is not in ", directory));
      }
      FS_ASSIGN_OR_RETURN(Shard shard, OpenShard(root, name));
      impl->shards.push_back(std::move(shard));
    }
    FS_RETURN_IF_ERROR(impl->AddIndexed(*files));
  } else {
    return NoWeights(directory);
  }
  for (const Shard& shard : impl->shards) impl->metadata.insert(shard.header.metadata.begin(), shard.header.metadata.end());
  return Checkpoint(std::move(impl));
}

bool Checkpoint::Has(const std::string& name) const { return impl_->places.contains(name); }

std::vector<std::string> Checkpoint::names() const {
  std::set<std::string> result;
  for (const Shard& shard : impl_->shards) {
    for (const auto& [name, entry] : shard.header.tensors) result.insert(name);
  }
  return {result.begin(), result.end()};
}

absl::StatusOr<std::vector<int64_t>> Checkpoint::ShapeOf(const std::string& name) const {
  FS_ASSIGN_OR_RETURN(const Impl::Place place, impl_->Find(name));
  return place.entry->shape;
}

absl::StatusOr<at::Tensor> Checkpoint::View(const std::string& name) const {
  FS_ASSIGN_OR_RETURN(const Impl::Place place, impl_->Find(name));
  const TensorEntry& entry = *place.entry;
  return GuardTorch([&]() -> at::Tensor {
    const auto options = at::dtype(ToScalarType(entry.dtype));
    if (entry.begin == entry.end) return at::empty(entry.shape, options);
    const std::byte* const bytes = place.shard->file->bytes().data() + entry.begin;
    if (reinterpret_cast<uintptr_t>(bytes) % SizeOf(entry.dtype) != 0) {
      at::Tensor copy = at::empty(entry.shape, options);
      std::memcpy(copy.mutable_data_ptr(), bytes, entry.end - entry.begin);
      return copy;
    }
    return at::from_blob(
        const_cast<std::byte*>(bytes), entry.shape, [mapping = place.shard->file](void*) {}, options);
  });
}

absl::StatusOr<at::Tensor> Checkpoint::Load(const std::string& name, at::IntArrayRef expected_shape, at::ScalarType dtype) const {
  FS_RETURN_IF_ERROR(Check(name, expected_shape));  // before any memory is taken for it
  FS_ASSIGN_OR_RETURN(at::Tensor tensor, GuardTorch([&] { return at::empty(expected_shape, at::dtype(dtype)); }));
  FS_RETURN_IF_ERROR(LoadInto(name, tensor));
  return tensor;
}

absl::Status Checkpoint::Check(const std::string& name, at::IntArrayRef expected_shape) const {
  FS_ASSIGN_OR_RETURN(const Impl::Place place, impl_->Find(name));
  const TensorEntry& entry = *place.entry;
  if (entry.dtype != FileDType::kF32 && entry.dtype != FileDType::kF16 && entry.dtype != FileDType::kBF16) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", name, "\" in ", place.shard->name, " is ", std::string(NameOf(entry.dtype)),
                                                   "; weights must be F32, F16 or BF16"));
  }
  if (expected_shape != at::IntArrayRef(entry.shape)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", name, "\" in ", place.shard->name, " has shape ", Shape(entry.shape),
                                                   ", expected ", Shape(expected_shape)));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::LoadInto(const std::string& name, at::Tensor out) const {
  FS_RETURN_IF_ERROR(Check(name, out.sizes()));
  FS_ASSIGN_OR_RETURN(const Impl::Place place, impl_->Find(name));
  const TensorEntry& entry = *place.entry;
  if (!out.is_cpu() || !out.is_contiguous() || !at::isFloatingType(out.scalar_type())) {
    return absl::InternalError(absl::StrCat("tensor \"", name, "\" can only be loaded into a contiguous floating CPU tensor"));
  }
  FS_ASSIGN_OR_RETURN(const at::Tensor source, View(name));
  place.shard->file->Prefetch(entry.begin, entry.end);
  return GuardTorch([&] {
    if (source.scalar_type() != out.scalar_type()) {
      ConvertOnThisThread(source, out);
    } else if (source.nbytes() > 0) {
      std::memcpy(out.mutable_data_ptr(), source.const_data_ptr(), source.nbytes());
    }
  });
}

const std::map<std::string, std::string>& Checkpoint::metadata() const { return impl_->metadata; }

uint64_t Checkpoint::tensor_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, place] : impl_->places) bytes += place.entry->end - place.entry->begin;
  return bytes;
}

absl::StatusOr<std::string> Checkpoint::sha256(const CancelToken& cancel) const {
  const std::lock_guard lock(impl_->hash_mutex);
  if (!impl_->hash) {
    Sha256 hash;
    for (const Shard& shard : impl_->shards) {
      const std::span<const std::byte> bytes = shard.file->bytes();
      constexpr size_t kPiece = 16 << 20;
      for (size_t begin = 0; begin < bytes.size(); begin += kPiece) {
        if (cancel.cancelled()) return absl::CancelledError("the load was cancelled");
        hash.Update(bytes.subspan(begin, std::min(kPiece, bytes.size() - begin)));
      }
    }
    impl_->hash = hash.HexDigest();
  }
  return *impl_->hash;
}

void Checkpoint::DropPages() const {
  for (const Shard& shard : impl_->shards) shard.file->DropPages();
}

}  // namespace fluoroscope::tensor
