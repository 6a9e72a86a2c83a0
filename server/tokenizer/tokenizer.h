// Text to token ids and back, exactly as the model's tokenizer.json says. The work is done by Hugging Face's `tokenizers` crate.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "api/plan.h"

namespace fluoroscope::tokenizer {

struct Encoded {
  std::vector<int64_t> ids;
  bool bos_added = false;  // a BOS stands in front that the text itself did not contain
};

// Owns one loaded tokenizer. Immutable: all methods are safe from any thread.
class Tokenizer {
 public:
  // Reads a tokenizer.json (and, beside it, tokenizer_config.json for the name of the BOS token, when there is one).
  // NOT_FOUND or INVALID_ARGUMENT, naming the file. A broken file never aborts the process.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_directory);

  virtual ~Tokenizer() = default;

  // INVALID_ARGUMENT when the text is not valid UTF-8, or BOS_ALWAYS is asked of a tokenizer without a BOS token.
  virtual absl::StatusOr<Encoded> Encode(std::string_view text, api::Bos bos, bool parse_special_tokens) const = 0;

  // The ids of `text` with nothing added, special tokens not parsed: for answer tokens.
  virtual absl::StatusOr<std::vector<int64_t>> EncodePlain(std::string_view text) const = 0;

  virtual absl::StatusOr<std::string> Decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const = 0;

  // One token as a label. Bytes that are not UTF-8 by themselves become U+FFFD.
  virtual std::string TokenText(int64_t id) const = 0;

  virtual bool adds_bos_by_default() const = 0;
  virtual int64_t vocabulary_size() const = 0;    // with added tokens
  virtual const std::string& sha256() const = 0;  // of tokenizer.json
};

}  // namespace fluoroscope::tokenizer
