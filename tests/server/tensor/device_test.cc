#include "tensor/device.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::tensor {
namespace {

using testing::HasSubstr;

TEST(DeviceTest, ParsesTheTwoKinds) {
  EXPECT_EQ(*ParseDevice("cpu"), at::Device(at::kCPU));
  EXPECT_EQ(*ParseDevice("cuda:0"), at::Device(at::kCUDA, 0));
  EXPECT_EQ(*ParseDevice("cuda:127"), at::Device(at::kCUDA, 127));
}

TEST(DeviceTest, RefusesEverythingElse) {
  for (const char* name :
       {"", "CPU", "cuda", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:1 ", "cuda:128", "cuda:99999999999", "meta", "cpu:0"}) {
    const absl::Status status = ParseDevice(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("allowed are \"cpu\" and \"cuda:N\"")) << name;
  }
}

TEST(DeviceTest, OpensTheCpu) { EXPECT_EQ(*OpenDevice("cpu"), at::Device(at::kCPU)); }

}  // namespace
}  // namespace fluoroscope::tensor
