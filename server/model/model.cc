#include "model/model.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "base/status_macros.h"
#include "model/families/family.h"
#include "model/rotary.h"
#include "model/unread_tensors.h"
#include "model/weight_arena.h"
#include "tensor/checkpoint.h"
#include "tensor/counting_allocator.h"
#include "tensor/dtype.h"
#include "tensor/runtime_errors.h"

namespace fluoroscope::model {
namespace {

constexpr size_t kMaxConfigBytes = 16 << 20;

absl::StatusOr<nlohmann::json> ReadObject(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return absl::NotFoundError(path +
                               " cannot be read; a model is a Hugging Face directory with config.json, *.safetensors and tokenizer.json");
  std::string text(kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxConfigBytes) return absl::InvalidArgumentError(path + " is larger than 16 MiB");
  nlohmann::json object = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError(path + " is not a JSON object");
  return object;
}

// Which version of the model this is, where the directory says so: transformers notes it in the configuration, fluoroscope.fetch in its
// manifest. Empty otherwise; the hash of the weights is what identifies them.
std::string RevisionOf(const nlohmann::json& config, const std::string& directory) {
  if (auto it = config.find("_commit_hash"); it != config.end() && it->is_string()) return it->get<std::string>();
  const absl::StatusOr<nlohmann::json> manifest = ReadObject(directory + "/fluoroscope.json");
  if (!manifest.ok()) return "";
  const auto source = manifest->find("source");
  if (source == manifest->end() || !source->is_object()) return "";
  const auto revision = source->find("revision");
  return revision != source->end() && revision->is_string() ? revision->get<std::string>() : "";
}

absl::StatusOr<const Family*> FindFamily(const nlohmann::json& config) {
  auto type = config.find("model_type");
  const std::string name = type != config.end() && type->is_string() ? type->get<std::string>() : "";
  std::string known;
  for (const Family* family : Families()) {
    if (family->model_type == name) return family;
    known += (known.empty() ? "" : ", ") + std::string(family->model_type);
  }
  return absl::InvalidArgumentError("config.json: unknown model_type '" + name + "'; known: " + known);
}

// The dtype most of the weights have; the embedding stands for them.
absl::StatusOr<at::ScalarType> ChooseDType(const std::string& wanted, const tensor::Checkpoint& checkpoint, const std::string& probe) {
  if (!wanted.empty()) return tensor::WeightDTypeNamed(wanted);
  FS_ASSIGN_OR_RETURN(at::Tensor view, checkpoint.View(probe));
  const at::ScalarType type = view.scalar_type();
  if (type != at::kFloat && type != at::kHalf && type != at::kBFloat16)
    return absl::InvalidArgumentError("tensor " + probe + " is " + std::string(c10::toString(type)) + "; weights must be F32, F16 or BF16");
  return type;
}

// A model directory whose configuration and headers are good; nothing of its weights has been read.
struct Opened {
  nlohmann::json config;
  const Family* family;
  Architecture arch;
  tensor::Checkpoint checkpoint;
  std::string prefix;  // of the tensors' names
  at::ScalarType dtype;

  absl::StatusOr<Weights> Read(WeightArena& arena, residency::LoadProgress* progress, std::set<std::string>* taken = nullptr) const {
    return family->load(arch, {checkpoint, dtype, arena, prefix, progress, taken}, {checkpoint, dtype, arena, "", progress, taken});
  }

  // What the weights take in an arena, from the headers alone, when all that the architecture needs is there and nothing else.
  absl::StatusOr<int64_t> Bytes() const {
    std::set<std::string> taken;
    WeightArena shapes;
    FS_RETURN_IF_ERROR(Read(shapes, nullptr, &taken).status());
    FS_RETURN_IF_ERROR(CheckAllRead(checkpoint.names(), taken, *family, prefix));
    return shapes.taken_bytes();
  }
};

absl::StatusOr<Opened> Open(const std::string& directory, const Model::Options& options) {
  FS_ASSIGN_OR_RETURN(nlohmann::json config, ReadObject(directory + "/config.json"));
  FS_ASSIGN_OR_RETURN(const Family* family, FindFamily(config));
  FS_ASSIGN_OR_RETURN(Architecture arch, family->parse(config));
  FS_ASSIGN_OR_RETURN(tensor::Checkpoint checkpoint, tensor::Checkpoint::Open(directory));
  std::string prefix(family->prefix);
  if (!checkpoint.Has(prefix + std::string(family->probe)) && checkpoint.Has(std::string(family->probe))) prefix.clear();
  FS_ASSIGN_OR_RETURN(const at::ScalarType dtype, ChooseDType(options.dtype, checkpoint, prefix + std::string(family->probe)));
  return Opened{std::move(config), family, std::move(arch), std::move(checkpoint), std::move(prefix), dtype};
}

absl::StatusOr<std::shared_ptr<const Model>> LoadGuarded(const std::string& directory, const Model::Options& options) {
  FS_ASSIGN_OR_RETURN(const Opened opened, Open(directory, options));
  FS_ASSIGN_OR_RETURN(const int64_t bytes, opened.Bytes());  // before any time or memory goes into a bad checkpoint
  auto model = std::make_shared<Model>();
  model->arch = opened.arch;
  model->device = options.device;
  model->dtype = opened.dtype;
  CancelToken cancel = options.progress == nullptr ? CancelToken() : options.progress->cancel;

  // Hashing reads the same pages as loading; both are bound by one core, so they run side by side.
  absl::StatusOr<std::string> sha256;
  std::jthread hashing([&] { sha256 = opened.checkpoint.sha256(cancel); });
  absl::Cleanup give_up = [&] { cancel.Cancel(); };  // nobody needs the hash of weights that were not loaded
  tensor::ScopedAccount account(tensor::Account::kWeights);
  WeightArena arena(bytes, model->device);
  FS_ASSIGN_OR_RETURN(model->weights, opened.Read(arena, options.progress));
  if (model->arch.positions == PositionScheme::kRotary)
    std::tie(model->rotary_cos, model->rotary_sin) = RotaryTables(model->arch, model->dtype, model->device);
  std::move(give_up).Cancel();
  hashing.join();
  FS_ASSIGN_OR_RETURN(model->weights_sha256, std::move(sha256));
  opened.checkpoint.DropPages();
  model->revision = RevisionOf(opened.config, directory);
  return std::shared_ptr<const Model>(std::move(model));
}

absl::StatusOr<uint64_t> MeasureGuarded(const std::string& directory, const Model::Options& options) {
  FS_ASSIGN_OR_RETURN(const Opened opened, Open(directory, options));
  FS_ASSIGN_OR_RETURN(const int64_t weight_bytes, opened.Bytes());
  auto bytes = static_cast<uint64_t>(weight_bytes);
  if (opened.arch.positions == PositionScheme::kRotary)  // cos and sin, of half a head each
    bytes += static_cast<uint64_t>(opened.arch.context * opened.arch.d_head) * c10::elementSize(opened.dtype);
  return bytes;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> Model::Load(const std::string& directory, const Options& options) {
  return tensor::GuardTorch([&] { return LoadGuarded(directory, options); });
}

absl::StatusOr<uint64_t> Model::Measure(const std::string& directory, const Options& options) {
  return tensor::GuardTorch([&] { return MeasureGuarded(directory, options); });
}

}  // namespace fluoroscope::model
