#include "tensor/runtime_errors.h"

#include <new>
#include <stdexcept>
#include <string>

#include "ATen/ATen.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tensor/counting_allocator.h"

namespace fluoroscope::tensor {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(GuardTorchTest, PassesResultsThrough) {
  EXPECT_TRUE(GuardTorch([] {}).ok());
  EXPECT_EQ(GuardTorch([] { return absl::NotFoundError("x"); }).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*GuardTorch([] { return 3; }), 3);
  EXPECT_EQ(*GuardTorch([]() -> absl::StatusOr<int> { return 4; }), 4);
  EXPECT_EQ(GuardTorch([]() -> absl::StatusOr<int> { return absl::AbortedError("y"); }).status().code(), absl::StatusCode::kAborted);
}

TEST(GuardTorchTest, ATorchErrorBecomesInternalWithoutBacktraceAndPaths) {
  const auto result = GuardTorch([] { return at::matmul(at::ones({2, 3}), at::ones({4, 5})); });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(result.status().message()), AllOf(HasSubstr("shapes cannot be multiplied (2x3 and 4x5)"), Not(HasSubstr("\n")),
                                                            Not(HasSubstr(".cpp")), Not(HasSubstr("raised from"))));
}

TEST(GuardTorchTest, AnInternalAssertLosesItsPath) {
  const absl::Status status = GuardTorch([] { TORCH_INTERNAL_ASSERT(false, "what happened"); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("INTERNAL ASSERT FAILED"), HasSubstr("what happened"), Not(HasSubstr(".cc"))));
}

TEST(GuardTorchTest, MemoryIsResourceExhausted) {
  const absl::Status cap = GuardTorch([] { throw MemoryCapError(30, 80, 100); });
  EXPECT_EQ(cap.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cap.message(), "out of memory: 30 more bytes are needed while 80 of the allowed 100 are in use");
  EXPECT_EQ(GuardTorch([] { throw std::bad_alloc(); }).code(), absl::StatusCode::kResourceExhausted);
}

TEST(GuardTorchTest, OtherExceptions) {
  EXPECT_EQ(GuardTorch([] { throw std::runtime_error("first\nsecond"); }), absl::InternalError("first"));
  EXPECT_EQ(GuardTorch([] { throw 3; }), absl::InternalError("an unknown exception"));
}

}  // namespace
}  // namespace fluoroscope::tensor
