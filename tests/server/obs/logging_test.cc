#include "obs/logging.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::obs {
namespace {

TEST(LoggingTest, RefusesAnUnknownLevelAndNamesTheKnownOnes) {
  const absl::Status status = SetUpLogging("loud");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "log_level is \"loud\"; it must be debug, info, warn or error");
}

TEST(LoggingTest, OneLinePerCall) {
  testing::internal::CaptureStderr();
  ASSERT_TRUE(SetUpLogging("info").ok());
  LogRpc({.id = "abc", .method = "Inference.Forward", .code = "OK", .queue_ms = 1, .run_ms = 2.5, .total_ms = 4, .bytes = 99});
  ShutDownLogging();
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::EndsWith(" info rpc id=abc method=Inference.Forward code=OK queue_ms=1.00 run_ms=2.50 total_ms=4.00 bytes=99\n"));
}

}  // namespace
}  // namespace fluoroscope::obs
