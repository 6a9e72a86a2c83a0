// A tokenizer.json from anywhere: a status that names the file, never the end of the process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/server/tokenizer/tiny.h"

namespace fluoroscope::tokenizer {
namespace {

using testing::HasSubstr;
using BadFilesTest = TokenizerTest;

TEST_F(BadFilesTest, NoFile) {
  auto loaded = Load();
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("tokenizer.json"));
}

TEST_F(BadFilesTest, ADirectoryInPlaceOfTheFile) {
  std::filesystem::create_directory(directory_ / "tokenizer.json");
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(BadFilesTest, NotATokenizer) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& content : {std::string(), std::string("{"), std::string("[]"), std::string("{}"), std::string("\x00\xFF", 2),
                                     std::string(R"({"model": {"type": "Oracle"}})"), deep}) {
    Write("tokenizer.json", content);
    auto loaded = Load();
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument) << content.substr(0, 20);
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("tokenizer.json cannot be used")) << content.substr(0, 20);
  }
}

TEST_F(BadFilesTest, RandomEncodingsAreRefused) {
  std::string json = TinyBpe(kAddsNothing);
  json.replace(json.find("\"dropout\": null"), 15, "\"dropout\": 0.5 ");
  Write("tokenizer.json", json);
  EXPECT_THAT(std::string(Load().status().message()), HasSubstr("model.dropout"));
}

// Every truncation, and a few thousand files with one wrong byte: whatever still loads must still answer.
TEST_F(BadFilesTest, DamagedFilesNeverAbort) {
  const std::string good = TinyBpe(AddsBoth());
  for (size_t size = 0; size < good.size(); size += 3) {
    Write("tokenizer.json", good.substr(0, size));
    EXPECT_FALSE(Load().ok()) << size;
  }
  std::mt19937 random(7);
  int loaded_files = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    bad[random() % bad.size()] = static_cast<char>(random());
    Write("tokenizer.json", bad);
    auto loaded = Load();
    if (!loaded.ok()) continue;
    ++loaded_files;
    for (bool parse : {false, true}) (void)(*loaded)->Encode("<s>ab \xC3\xA9 <user>", api::Bos::kDefault, parse);
    for (int64_t id = 0; id < 20; ++id) (void)(*loaded)->TokenText(id);
  }
  EXPECT_GT(loaded_files, 100);
}

}  // namespace
}  // namespace fluoroscope::tokenizer
