// Tokenizers small enough to check by hand, written out as tokenizer.json.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "tokenizer/tokenizer.h"

namespace fluoroscope::tokenizer {

// A byte-level BPE like GPT-2's. Ids: 0 "<s>" and 1 "</s>" (special), 2 "<user>" (added, not special), then bytes and merges:
// 3 "a" 4 "b" 5 "c" 6 " " 7 "<" 8 "s" 9 ">" 10 0xC3 11 0xA9 12 "ab" 13 " ab" 14 "u" 15 "e" 16 "r" 17 "/".
inline std::string TinyBpe(const std::string& post_processor, const std::string& more = "") {
  return R"({"version": "1.0", )" + more + R"("added_tokens": [
    {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 2, "content": "<user>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": )" +
         post_processor + R"(,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
    "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
    "vocab": {"<s>": 0, "</s>": 1, "<user>": 2, "a": 3, "b": 4, "c": 5, "Ġ": 6, "<": 7, "s": 8, ">": 9, "Ã": 10, "©": 11, "ab": 12,
              "Ġab": 13, "u": 14, "e": 15, "r": 16, "/": 17},
    "merges": ["a b", "Ġ ab"]}})";
}

inline std::string Template(const std::string& single) {
  return R"({"type": "TemplateProcessing", "single": [)" + single + R"(], "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}})";
}
inline const std::string kBosPiece = R"({"SpecialToken": {"id": "<s>", "type_id": 0}})";
inline const std::string kEosPiece = R"({"SpecialToken": {"id": "</s>", "type_id": 0}})";
inline const std::string kTextPiece = R"({"Sequence": {"id": "A", "type_id": 0}})";
inline const std::string kAddsNothing = R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true})";
inline std::string AddsBos() { return Template(kBosPiece + "," + kTextPiece); }
inline std::string AddsEos() { return Template(kTextPiece + "," + kEosPiece); }
inline std::string AddsBoth() { return Template(kBosPiece + "," + kTextPiece + "," + kEosPiece); }

// A model directory that lives as long as its test.
class TokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = std::filesystem::path(testing::TempDir()) / (std::string(info->test_suite_name()) + "." + info->name());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& content) { std::ofstream(directory_ / name, std::ios::binary) << content; }

  absl::StatusOr<std::unique_ptr<Tokenizer>> Load() { return Tokenizer::Load(directory_.string()); }

  std::unique_ptr<Tokenizer> MustLoad(const std::string& tokenizer_json) {
    Write("tokenizer.json", tokenizer_json);
    auto tokenizer = Load();
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? std::move(*tokenizer) : nullptr;
  }

  std::filesystem::path directory_;
};

}  // namespace fluoroscope::tokenizer
