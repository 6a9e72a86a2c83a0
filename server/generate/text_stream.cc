#include "generate/text_stream.h"

#include <algorithm>
#include <utility>

namespace fluoroscope::generate {
namespace {

constexpr size_t kContext = 6;  // tokens of the prompt in front of the first
// Tokens that are waited for to complete a character, which has at most four bytes: behind so many there is none to complete, only bytes
// that are no text, and to decode ever more of them again and again would take longer and longer.
constexpr size_t kMostPending = 16;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

std::string Decoded(const tokenizer::Tokenizer& tokenizer, const std::vector<int64_t>& ids) {
  if (auto text = tokenizer.Decode(ids, /*skip_special_tokens=*/false); text.ok()) return *std::move(text);
  // An id that no token has, which models with a padded vocabulary can predict: labels instead.
  std::string text;
  for (const int64_t id : ids) text += tokenizer.TokenText(id);
  return text;
}

}  // namespace

TextStream::TextStream(const tokenizer::Tokenizer* tokenizer, const std::vector<std::string>& stop, const std::vector<int64_t>& prompt)
    : tokenizer_(tokenizer), stop_(stop) {
  for (const std::string& one : stop_) longest_stop_ = std::max(longest_stop_, one.size());
  ids_.assign(prompt.end() - static_cast<std::ptrdiff_t>(std::min(kContext, prompt.size())), prompt.end());
  read_ = ids_.size();
}

std::string TextStream::NewText(bool all) const {
  const auto from = ids_.begin() + static_cast<std::ptrdiff_t>(context_);
  const std::string before = Decoded(*tokenizer_, {from, ids_.begin() + static_cast<std::ptrdiff_t>(read_)});
  const std::string now = Decoded(*tokenizer_, {from, ids_.end()});
  if (!all && now.ends_with(kReplacement)) return "";
  // What was read stays as it is; only where a prompt ends within a character do the two differ, and there the new character is all new.
  size_t same = static_cast<size_t>(std::mismatch(before.begin(), before.end(), now.begin(), now.end()).first - before.begin());
  while (same > 0 && same < now.size() && (static_cast<unsigned char>(now[same]) & 0xC0) == 0x80) --same;
  return now.substr(same);
}

std::optional<size_t> TextStream::Add(api::GeneratedToken token) {
  std::string text;
  if (tokenizer_ != nullptr) {
    ids_.push_back(token.id);
    text = NewText(/*all=*/ids_.size() - read_ >= kMostPending);
    if (!text.empty()) {
      ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(context_));
      context_ = read_ - context_;
      read_ = ids_.size();
    }
  }
  text_ += text;
  token.text = std::move(text);
  held_.push_back({std::move(token), text_.size()});
  return FindStop(held_.back().token.text.size());
}

void TextStream::AddSilently(api::GeneratedToken token) { held_.push_back({std::move(token), text_.size()}); }

std::optional<size_t> TextStream::FindStop(size_t added) {
  if (added == 0) return std::nullopt;
  std::optional<size_t> found;
  for (size_t i = 0; i < stop_.size(); ++i) {
    const size_t reach = added + stop_[i].size() - 1;  // a new occurrence begins at most so far from the end
    const size_t at = text_.find(stop_[i], text_.size() - std::min(reach, text_.size()));
    if (at == std::string::npos || (stopped_at_ && *stopped_at_ <= at)) continue;
    stopped_at_ = at;
    found = i;
  }
  return found;
}

size_t TextStream::Certain() const {
  for (size_t tail = std::min(longest_stop_, text_.size()); tail > 0; --tail) {
    const std::string_view end = std::string_view(text_).substr(text_.size() - tail);
    for (const std::string& stop : stop_)
      if (end.size() < stop.size() && stop.starts_with(end)) return text_.size() - tail;
  }
  return text_.size();
}

std::vector<api::GeneratedToken> TextStream::Take() {
  std::vector<api::GeneratedToken> taken;
  const size_t certain = Certain();
  while (!held_.empty() && held_.front().end <= certain) {
    taken.push_back(std::move(held_.front().token));
    held_.pop_front();
  }
  return taken;
}

std::vector<api::GeneratedToken> TextStream::Finish(api::FinishReason reason, std::optional<size_t> stop) {
  std::vector<api::GeneratedToken> taken;
  if (tokenizer_ != nullptr && !stop && read_ < ids_.size()) {
    const std::string rest = NewText(/*all=*/true);
    held_.back().token.text += rest;
    held_.back().end += rest.size();
  }
  for (Held& held : held_) {
    if (stopped_at_ && held.end > *stopped_at_) {
      std::string& text = held.token.text;
      const size_t beyond = held.end - *stopped_at_;
      text.resize(text.size() - std::min(text.size(), beyond));
    }
    taken.push_back(std::move(held.token));
  }
  held_.clear();
  taken.back().finish = reason;
  if (stop) taken.back().stop = static_cast<uint32_t>(*stop);
  return taken;
}

}  // namespace fluoroscope::generate
