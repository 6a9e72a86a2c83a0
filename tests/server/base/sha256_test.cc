#include "base/sha256.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope {
namespace {

// FIPS 180-4's examples, as sha256sum prints them.
constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kTwoBlocks[] = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
constexpr char kMillionA[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content) {
    path_ = testing::TempDir() + "sha256_test_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Sha256, KnownVectors) {
  EXPECT_EQ(Sha256Hex(""), kEmpty);
  EXPECT_EQ(Sha256Hex("abc"), kAbc);
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), kTwoBlocks);
  EXPECT_EQ(Sha256Hex(std::string(1'000'000, 'a')), kMillionA);
}

TEST(Sha256, PiecesGiveTheHashOfTheWhole) {
  const std::string text(1'000'000, 'a');
  for (const size_t piece : {1U, 63U, 64U, 65U, 4096U, 999'999U}) {
    Sha256 hash;
    for (size_t begin = 0; begin < text.size(); begin += piece) hash.Update(std::string_view(text).substr(begin, piece));
    EXPECT_EQ(hash.HexDigest(), kMillionA) << piece;
  }
}

TEST(Sha256, NoUpdateIsTheEmptyText) { EXPECT_EQ(Sha256().HexDigest(), kEmpty); }

TEST(Sha256, MovesWithWhatItHasSeen) {
  Sha256 first;
  first.Update("a");
  Sha256 second = std::move(first);
  second.Update("bc");
  EXPECT_EQ(second.HexDigest(), kAbc);
  second = Sha256();
  EXPECT_EQ(second.HexDigest(), kEmpty);
}

TEST(Sha256OfFile, IsTheHashOfTheContent) {
  EXPECT_EQ(Sha256OfFile(TemporaryFile("abc").path()).value(), kAbc);
  EXPECT_EQ(Sha256OfFile(TemporaryFile("").path()).value(), kEmpty);
  // Longer than the buffer, and not a multiple of it.
  const std::string big = std::string(1'000'000, 'a') + std::string(1'500'001, 'b');
  EXPECT_EQ(Sha256OfFile(TemporaryFile(big).path()).value(), Sha256Hex(big));
}

TEST(Sha256OfFile, SaysWhichFileAndWhy) {
  const absl::StatusOr<std::string> missing = Sha256OfFile("/nonexistent/model.safetensors");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.status().message(), "cannot open /nonexistent/model.safetensors: No such file or directory");
  const absl::StatusOr<std::string> directory = Sha256OfFile("/");
  EXPECT_EQ(directory.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(directory.status().message(), "cannot read /: Is a directory");
}

}  // namespace
}  // namespace fluoroscope
