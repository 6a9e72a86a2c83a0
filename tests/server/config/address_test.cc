#include "config/address.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::config {
namespace {

TEST(ParseAddressTest, TakesNamesAndBothKindsOfAddress) {
  EXPECT_EQ(ParseAddress("127.0.0.1:7070")->host, "127.0.0.1");
  EXPECT_EQ(ParseAddress("127.0.0.1:7070")->port, 7070);
  EXPECT_EQ(ParseAddress("localhost:0")->port, 0);
  EXPECT_EQ(ParseAddress("[::1]:65535")->host, "::1");
  EXPECT_EQ(ParseAddress("[::1]:65535")->port, 65535);
}

TEST(ParseAddressTest, RefusesTheRestAndSaysWhy) {
  for (const auto& [text, why] : std::vector<std::pair<const char*, const char*>>{{"", "no port"},
                                                                                  {"localhost", "no port"},
                                                                                  {":7070", "no host"},
                                                                                  {"[]:7070", "no host"},
                                                                                  {"::1:7070", "needs brackets"},
                                                                                  {"localhost:", "0 to 65535"},
                                                                                  {"localhost:-1", "0 to 65535"},
                                                                                  {"localhost:65536", "0 to 65535"},
                                                                                  {"localhost:99999999999", "0 to 65535"},
                                                                                  {"localhost:http", "0 to 65535"},
                                                                                  {"a b:1", "strange character"}}) {
    const auto address = ParseAddress(text);
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(address.status().message()), testing::HasSubstr(why)) << text;
  }
}

}  // namespace
}  // namespace fluoroscope::config
