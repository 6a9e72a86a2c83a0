// The text of a continuation as its tokens come in, and where a stop string ends it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/results.h"
#include "tokenizer/tokenizer.h"

namespace fluoroscope::generate {

// Of one continuation; one thread at a time. Tokens go in one by one and come out with their part of the text once that is certain: a
// token is held back while its text may be the beginning of a stop string. Together the texts are what decoding all ids at once would give
// behind the prompt, up to the stop string.
class TextStream {
 public:
  // References outlive it. Without a tokenizer (null) texts are empty. `prompt`: its last tokens decide whether a leading space counts.
  TextStream(const tokenizer::Tokenizer* tokenizer, const std::vector<std::string>& stop, const std::vector<int64_t>& prompt);

  // Takes the next token. Returns the index of the stop string that its text completes, the one that begins first (of several there, the
  // first in the list).
  std::optional<size_t> Add(api::GeneratedToken token);

  // A token that ends the sequence: it has no text.
  void AddSilently(api::GeneratedToken token);

  // Tokens that are certain, in order.
  std::vector<api::GeneratedToken> Take();

  // The continuation ends here: all tokens that are left. Bytes of a character that never came complete read U+FFFD.
  std::vector<api::GeneratedToken> Finish(api::FinishReason reason, std::optional<size_t> stop);

 private:
  struct Held {
    api::GeneratedToken token;
    size_t end = 0;  // of its text, within the whole
  };

  // The text that the ids since read_ add to what was read; nothing while they end in the middle of a character, unless all is wanted.
  std::string NewText(bool all) const;
  std::optional<size_t> FindStop(size_t added);
  // How much of the text cannot be part of a stop string that is not complete yet.
  size_t Certain() const;

  const tokenizer::Tokenizer* const tokenizer_;
  const std::vector<std::string>& stop_;
  size_t longest_stop_ = 0;
  std::vector<int64_t> ids_;       // from a few before the first that has not been read
  size_t context_ = 0, read_ = 0;  // ids_[context_, read_) are read and are decoded again in front of the next ones
  std::string text_;               // all that was read
  std::optional<size_t> stopped_at_;
  std::deque<Held> held_;
};

}  // namespace fluoroscope::generate
