#include "tensor/mapped_file.h"

#include <sys/stat.h>

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "safetensors_bytes.h"

namespace fluoroscope::tensor {
namespace {

using testing::HasSubstr;

std::string TextOf(const MappedFile& file) { return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.size()); }

TEST(MappedFileTest, HoldsTheBytesAndSurvivesMovesAndDroppedPages) {
  const TempDir dir;
  const std::string text(10'000, 'q');
  auto file = MappedFile::Open(dir.Write("f", text));
  ASSERT_TRUE(file.ok()) << file.status();
  MappedFile moved = *std::move(file);
  EXPECT_EQ(TextOf(moved), text);
  moved.Prefetch(5000, 1'000'000);
  moved.DropPages();
  EXPECT_EQ(TextOf(moved), text);
  auto other = MappedFile::Open(dir.Write("g", "other"));
  ASSERT_TRUE(other.ok());
  moved = *std::move(other);
  EXPECT_EQ(TextOf(moved), "other");
  EXPECT_THAT(moved.path(), HasSubstr("/g"));
}

TEST(MappedFileTest, AFileThatIsReplacedStaysAsItWas) {
  const TempDir dir;
  const std::string path = dir.Write("f", "before");
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok());
  std::filesystem::rename(dir.Write("new", "after!"), path);
  EXPECT_EQ(TextOf(*file), "before");
}

TEST(MappedFileTest, AnEmptyFileHasNoBytes) {
  const TempDir dir;
  const auto file = MappedFile::Open(dir.Write("empty", ""));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->size(), 0u);
  file->DropPages();
  file->Prefetch(0, 10);
}

TEST(MappedFileTest, RefusesWhatIsNotARegularFile) {
  const TempDir dir;
  EXPECT_EQ(MappedFile::Open(dir.path() + "/none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  const std::string pipe = dir.path() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(std::string(MappedFile::Open(pipe).status().message()), HasSubstr("is not a regular file"));
}

}  // namespace
}  // namespace fluoroscope::tensor
