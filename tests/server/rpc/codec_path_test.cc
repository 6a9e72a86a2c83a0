#include "rpc/codec_path.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

namespace fluoroscope::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<api::PathRequest> Decode(const std::string& text) {
  fluoroscope::v1::PathPatchRequest message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return DecodePathPatch(message, {.max_prompts = 4, .max_tokens = 64});
}

const std::string kPairs =
    R"(model: "m" pairs { clean { text: "a" } corrupt { text: "b" } } pairs { clean { text: "c" } corrupt { text: "d" } } )";
const std::string kRest = R"( receivers { nodes { site: "logits" } } metrics { name: "r" rank { token { id: 1 } } })";

TEST(CodecPathTest, Everything) {
  const auto request = Decode(kPairs + R"(
    direction: SWEEP_DIRECTION_DENOISE freeze_norms: true
    senders { label: "both" nodes { site: "blocks.0.attn.hook_z" heads: [ 1, 3 ] } nodes { site: "hook_embed" } positions { items { index: 2 } } }
    senders { nodes { site: "x" } positions { items { last: true } } positions { items { all: true } } })" +
                              kRest);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->direction, api::SweepDirection::kDenoise);
  EXPECT_FALSE(request->freeze_mlps);
  EXPECT_TRUE(request->freeze_norms);
  ASSERT_EQ(request->senders.size(), 2u);
  EXPECT_EQ(request->senders[0].label, "both");
  ASSERT_EQ(request->senders[0].nodes.size(), 2u);
  EXPECT_EQ(request->senders[0].nodes[0].site, "blocks.0.attn.hook_z");
  EXPECT_THAT(request->senders[0].nodes[0].heads, ElementsAre(1, 3));
  EXPECT_EQ(request->senders[0].positions.size(), 1u);
  EXPECT_EQ(request->senders[1].positions.size(), 2u);
  EXPECT_TRUE(request->receivers[0].positions.empty());
  EXPECT_EQ(request->pairs.size(), 2u);
}

TEST(CodecPathTest, TheDefaultsAreThoseOfTheProto) {
  const auto request = Decode(kPairs + R"(senders { nodes { site: "x" } })" + kRest);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->direction, api::SweepDirection::kNoise);
  EXPECT_FALSE(request->freeze_mlps || request->freeze_norms);
}

TEST(CodecPathTest, BadRequestsSayWhereAndWhatIsAllowed) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "senders is empty"},
      {"senders {}", "senders[0].nodes is empty"},
      {"senders { nodes {} }", "senders[0].nodes[0].site has 0 bytes; 1 to 256"},
      {R"(senders { nodes { site: "x" } positions { items { all: true } } positions { items { all: true } } positions { items { all: true } } })",
       "senders[0].positions has 3 entries; it needs none (all positions), one for all pairs, or one for each of the 2"},
      {R"(senders { nodes { site: "x" } positions {} })", "senders[0].positions[0]"},
  };
  for (const auto& [senders, words] : cases) {
    const auto request = Decode(kPairs + senders + kRest);
    EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << senders;
    EXPECT_THAT(std::string(request.status().message()), HasSubstr(words));
  }
}

TEST(CodecPathTest, WhatAMetricComparesWithIsOneOfTwoRuns) {
  const std::string front =
      kPairs + R"(senders { nodes { site: "x" } } receivers { nodes { site: "logits" } } metrics { name: "k" kl { row: )";
  EXPECT_TRUE(Decode(front + "1 } }").ok());
  EXPECT_THAT(std::string(Decode(front + "2 } }").status().message()), HasSubstr("is 2; 0 is the pair's base run, 1 its source run"));
}

}  // namespace
}  // namespace fluoroscope::rpc
