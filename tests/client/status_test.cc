#include "client/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::client {
namespace {

using ::testing::HasSubstr;

const grpc::Status kTooLarge(grpc::StatusCode::RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (5242901 vs. 4194304)");

TEST(StatusTest, CodesAndMessagesAreTheServers) {
  EXPECT_TRUE(ToAbsl(grpc::Status::OK, 0).ok());
  EXPECT_EQ(ToAbsl(grpc::Status(grpc::StatusCode::NOT_FOUND, "no such model"), 7), absl::NotFoundError("no such model"));
  EXPECT_EQ(ToAbsl(grpc::Status(grpc::StatusCode::UNKNOWN, "?"), 7), absl::UnknownError("?"));  // gRPC makes this of codes it does not know
  EXPECT_EQ(ToAbsl(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "8 of 6 bytes"), 8), absl::ResourceExhaustedError("8 of 6 bytes"));
}

TEST(StatusTest, ARequestOverTheReceiveLimitSaysWhatToDo) {
  const absl::Status status = ToAbsl(kTooLarge, 5242901);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  for (const char* part : {"5242901 bytes (5.0 MiB)", "at most 4194304 (4.0 MiB)", "Handles.Put", "limits.max_receive_mib"})
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

TEST(StatusTest, AReplyOverThisSidesLimitIsNotBlamedOnTheRequest) {
  EXPECT_EQ(ToAbsl(kTooLarge, 100), absl::ResourceExhaustedError("SERVER: Received message larger than max (5242901 vs. 4194304)"));
}

}  // namespace
}  // namespace fluoroscope::client
