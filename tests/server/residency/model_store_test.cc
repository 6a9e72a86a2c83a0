#include "residency/model_store.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::residency {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class ModelStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(root_);
    Make(root_ / "store" / "good");
    Make(root_ / "outside");
    fs::create_directories(root_ / "store" / "empty");
    std::ofstream(root_ / "store" / "file") << "{}";
    Make(root_ / "store" / ".hidden");
    fs::create_directory_symlink("good", root_ / "store" / "alias");
    fs::create_directory_symlink(root_ / "outside", root_ / "store" / "escape");
    fs::create_directory_symlink(root_, root_ / "store" / "up");
    fs::create_directory_symlink("nowhere", root_ / "store" / "dangling");
  }
  void TearDown() override { fs::remove_all(root_); }

  static void Make(const fs::path& directory) {
    fs::create_directories(directory);
    std::ofstream(directory / "config.json") << "{}";
  }

  const fs::path root_ = fs::path(testing::TempDir()) / ("model_store_test." + std::to_string(getpid()));
  const ModelStore store_{(root_ / "store").string()};
};

TEST_F(ModelStoreTest, FindsASubdirectoryByItsName) {
  const auto found = store_.Find("good");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(*found, fs::canonical(root_ / "store" / "good").string());
  EXPECT_EQ(store_.Find("alias").value(), *found);  // a link that stays inside
  EXPECT_THAT(store_.Names(), ElementsAre("alias", "good"));
}

TEST_F(ModelStoreTest, WhatIsPutThereLaterIsFound) {
  EXPECT_EQ(store_.Find("later").status().code(), absl::StatusCode::kNotFound);
  Make(root_ / "store" / "later");
  EXPECT_TRUE(store_.Find("later").ok());
}

TEST_F(ModelStoreTest, OnlyNamesAreTaken) {
  for (const std::string name : {"", ".", "..", "../outside", "good/../../outside", "/etc", "good/", ".hidden", "a b", "gö", "a\nb"}) {
    const absl::Status status = store_.Find(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("never by a path"));
  }
  EXPECT_EQ(store_.Find(std::string("good\0", 5)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_.Find(std::string(65, 'a')).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_.Find(std::string(64, 'a')).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelStoreTest, ALinkOutOfTheStoreIsRefused) {
  for (const char* name : {"escape", "up"}) {
    const absl::Status status = store_.Find(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << name;
    EXPECT_EQ(status.message(), "model '" + std::string(name) + "' is a link that leads out of the model store");
  }
}

TEST_F(ModelStoreTest, OnlyModelsAreFound) {
  for (const char* name : {"empty", "file", "dangling", "other"})
    EXPECT_EQ(store_.Find(name).status().code(), absl::StatusCode::kNotFound) << name;
  EXPECT_EQ(ModelStore("").Find("good").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(ModelStore("").Names().empty());
  EXPECT_TRUE(ModelStore((root_ / "gone").string()).Names().empty());
}

}  // namespace
}  // namespace fluoroscope::residency
