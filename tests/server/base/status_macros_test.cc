#include "base/status_macros.h"

#include <memory>
#include <string>

#include "gtest/gtest.h"

namespace fluoroscope {
namespace {

absl::StatusOr<int> Half(int number) {
  if (number % 2 != 0) return absl::InvalidArgumentError("odd");
  return number / 2;
}

absl::StatusOr<int> Quarter(int number) {
  FS_ASSIGN_OR_RETURN(const int half, Half(number));
  FS_ASSIGN_OR_RETURN(int quarter, Half(half));  // two in one scope
  return quarter;
}

absl::Status CheckAll(int* evaluated, bool fail) {
  FS_RETURN_IF_ERROR((++*evaluated, absl::OkStatus()));
  FS_RETURN_IF_ERROR(fail ? absl::NotFoundError("gone") : absl::OkStatus());
  ++*evaluated;
  return absl::OkStatus();
}

TEST(StatusMacros, AssignsOrReturnsTheFirstError) {
  EXPECT_EQ(Quarter(12).value(), 3);
  EXPECT_EQ(Quarter(6).status(), absl::InvalidArgumentError("odd"));
  EXPECT_EQ(Quarter(5).status(), absl::InvalidArgumentError("odd"));
}

TEST(StatusMacros, ReturnsOnlyOnErrorAndEvaluatesOnce) {
  int evaluated = 0;
  EXPECT_TRUE(CheckAll(&evaluated, false).ok());
  EXPECT_EQ(evaluated, 2);
  EXPECT_EQ(CheckAll(&evaluated, true), absl::NotFoundError("gone"));
  EXPECT_EQ(evaluated, 3);
}

TEST(StatusMacros, MovesWhatCannotBeCopied) {
  const auto unwrap = [](absl::StatusOr<std::unique_ptr<std::string>> in) -> absl::StatusOr<std::string> {
    FS_ASSIGN_OR_RETURN(const std::unique_ptr<std::string> text, std::move(in));
    return *text;
  };
  EXPECT_EQ(unwrap(std::make_unique<std::string>("kept")).value(), "kept");
}

}  // namespace
}  // namespace fluoroscope
