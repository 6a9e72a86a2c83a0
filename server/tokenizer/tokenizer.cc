#include "tokenizer/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "tokenizer/bos_token.h"
#include "tokenizer/capi/fluoroscope_tokenizer.h"

namespace fluoroscope::tokenizer {
namespace {

const uint8_t* Bytes(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

std::string Take(FsBytes bytes) {
  std::string text(reinterpret_cast<const char*>(bytes.data), bytes.size);
  fs_bytes_free(bytes);
  return text;
}

absl::Status ToStatus(int32_t code, FsBytes error) {
  if (code == FS_OK) return absl::OkStatus();
  std::string message = Take(error);
  if (code == FS_INVALID) return absl::InvalidArgumentError(message);
  return absl::InternalError(absl::StrCat("the tokenizer failed: ", message));
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return absl::NotFoundError(absl::StrCat("there is no file ", path));
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return std::move(bytes).str();
}

struct HandleDeleter {
  void operator()(FsTokenizer* handle) const { fs_tokenizer_free(handle); }
};
using Handle = std::unique_ptr<FsTokenizer, HandleDeleter>;

class CrateTokenizer final : public Tokenizer {
 public:
  CrateTokenizer(Handle handle, std::string sha256)
      : handle_(std::move(handle)), sha256_(std::move(sha256)), vocabulary_size_(fs_tokenizer_vocabulary_size(handle_.get())) {}

  // Learns the BOS token from the model's files, and from what the post-processor does with a short text.
  absl::Status FindBos(const std::string& model_directory) {
    FS_ASSIGN_OR_RETURN(bos_id_, FindBosToken(model_directory, [this](const std::string& token) {
                          return fs_tokenizer_token_to_id(handle_.get(), Bytes(token), token.size());
                        }));
    absl::StatusOr<Ids> probe = Run("a", /*add_special=*/true, /*parse_special=*/false);
    if (!probe.ok() || probe->ids.empty() || !probe->added[0]) return absl::OkStatus();
    if (!bos_id_) bos_id_ = probe->ids[0];  // no file names it, but every sequence begins with it
    adds_bos_by_default_ = probe->ids[0] == *bos_id_;
    return absl::OkStatus();
  }

  absl::StatusOr<Encoded> Encode(std::string_view text, api::Bos bos, bool parse_special_tokens) const override {
    if (bos == api::Bos::kAlways && !bos_id_) {
      return absl::InvalidArgumentError(
          "BOS_ALWAYS: this model's tokenizer has no BOS token (none in tokenizer_config.json, special_tokens_map.json or config.json); "
          "use BOS_DEFAULT or BOS_NEVER");
    }
    FS_ASSIGN_OR_RETURN(Ids tokens, Run(text, /*add_special=*/bos != api::Bos::kNever, parse_special_tokens));
    Encoded result{std::move(tokens.ids), adds_bos_by_default_ && !tokens.added.empty() && tokens.added[0]};
    if (bos == api::Bos::kAlways) MakeExactlyOneBos(result);
    return result;
  }

  absl::StatusOr<std::vector<int64_t>> EncodePlain(std::string_view text) const override {
    FS_ASSIGN_OR_RETURN(Ids tokens, Run(text, /*add_special=*/false, /*parse_special=*/false));
    return std::move(tokens.ids);
  }

  absl::StatusOr<std::string> Decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const override {
    std::vector<uint32_t> narrow;
    narrow.reserve(ids.size());
    for (int64_t id : ids) {
      if (!Fits(id)) return absl::InvalidArgumentError(absl::StrCat("token id ", id, " is not in the tokenizer's vocabulary"));
      narrow.push_back(static_cast<uint32_t>(id));
    }
    FsBytes text{}, error{};
    FS_RETURN_IF_ERROR(
        ToStatus(fs_tokenizer_decode(handle_.get(), narrow.data(), narrow.size(), skip_special_tokens, &text, &error), error));
    return Take(text);
  }

  std::string TokenText(int64_t id) const override {
    FsBytes text{}, error{};
    if (Fits(id) && ToStatus(fs_tokenizer_token_text(handle_.get(), static_cast<uint32_t>(id), &text, &error), error).ok())
      return Take(text);
    return absl::StrCat("[id ", id, "]");  // models often have rows in their embedding that no token uses
  }

  bool adds_bos_by_default() const override { return adds_bos_by_default_; }
  int64_t vocabulary_size() const override { return vocabulary_size_; }
  const std::string& sha256() const override { return sha256_; }

 private:
  struct Ids {
    std::vector<int64_t> ids;
    std::vector<bool> added;  // by the post-processor
  };

  static bool Fits(int64_t id) { return id >= 0 && id <= std::numeric_limits<uint32_t>::max(); }

  absl::StatusOr<Ids> Run(std::string_view text, bool add_special, bool parse_special) const {
    FsEncoding encoding{};
    FsBytes error{};
    FS_RETURN_IF_ERROR(
        ToStatus(fs_tokenizer_encode(handle_.get(), Bytes(text), text.size(), add_special, parse_special, &encoding, &error), error));
    Ids result;
    result.ids.assign(encoding.ids, encoding.ids + encoding.size);
    result.added.assign(encoding.added, encoding.added + encoding.size);
    fs_encoding_free(encoding);
    return result;
  }

  void MakeExactlyOneBos(Encoded& encoded) const {
    auto& ids = encoded.ids;
    if (ids.empty() || ids[0] != *bos_id_) {
      ids.insert(ids.begin(), *bos_id_);
      encoded.bos_added = true;
    } else if (encoded.bos_added && ids.size() > 1 && ids[1] == *bos_id_) {
      ids.erase(ids.begin());  // the text brought its own
      encoded.bos_added = false;
    }
  }

  Handle handle_;
  std::string sha256_;
  int64_t vocabulary_size_;
  std::optional<int64_t> bos_id_;
  bool adds_bos_by_default_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_directory) {
  const std::string path = absl::StrCat(model_directory, "/tokenizer.json");
  FS_ASSIGN_OR_RETURN(std::string json, ReadFile(path));
  FsTokenizer* handle = nullptr;
  FsBytes error{};
  absl::Status loaded = ToStatus(fs_tokenizer_load(Bytes(json), json.size(), &handle, &error), error);
  if (!loaded.ok()) return absl::InvalidArgumentError(absl::StrCat(path, " cannot be used: ", loaded.message()));
  auto tokenizer = std::make_unique<CrateTokenizer>(Handle(handle), Sha256Hex(json));
  FS_RETURN_IF_ERROR(tokenizer->FindBos(model_directory));
  return tokenizer;
}

}  // namespace fluoroscope::tokenizer
