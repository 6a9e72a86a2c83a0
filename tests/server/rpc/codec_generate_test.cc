#include "rpc/codec_generate.h"

#include <google/protobuf/text_format.h>

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr DecodeLimits kLimits{.max_prompts = 8, .max_tokens = 100};

v1::GenerateRequest Parse(const std::string& text) {
  v1::GenerateRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &request)) << text;
  return request;
}

TEST(CodecGenerateTest, EverythingArrives) {
  const auto out = DecodeGenerate(Parse(R"(
      model: "m" prompts { text: "a" } prompts { tokens { ids: [1, 2] } } prompts { text: "s" } sources: 1
      captures { select { sites: "x" positions { items { generated: true } } } }
      interventions { select { sites: "y" rows: 0 } zero {} }
      max_new_tokens: 7 samples: 3 stop: "end" stop: "\n" ignore_eos: true top_logprobs: 4 isolated: true
      sampling { temperature: 0.5 top_k: 9 top_p: 0.75 min_p: 0.25 repetition_penalty: 1.5 seed: 18446744073709551615 })"),
                                  kLimits);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->model, "m");
  EXPECT_EQ(out->prompts.size(), 3u);
  EXPECT_EQ(out->sources, 1u);
  EXPECT_TRUE(std::holds_alternative<api::GeneratedPositions>(out->captures[0].select.positions->front()));
  EXPECT_TRUE(std::holds_alternative<api::Zero>(out->interventions[0].kind));
  EXPECT_EQ(out->max_new_tokens, 7u);
  EXPECT_EQ(out->samples, 3u);
  EXPECT_THAT(out->stop, ElementsAre("end", "\n"));
  EXPECT_TRUE(out->ignore_eos);
  EXPECT_TRUE(out->isolated);
  EXPECT_EQ(out->top_logprobs, 4u);
  EXPECT_EQ(out->sampling.temperature, 0.5);
  EXPECT_EQ(out->sampling.top_k, 9u);
  EXPECT_EQ(out->sampling.top_p, 0.75);
  EXPECT_EQ(out->sampling.min_p, 0.25);
  EXPECT_EQ(out->sampling.repetition_penalty, 1.5);
  EXPECT_EQ(out->sampling.seed, std::numeric_limits<uint64_t>::max());
}

TEST(CodecGenerateTest, DefaultsAreGreedyAndOneSample) {
  const auto out = DecodeGenerate(Parse(R"(model: "m" prompts { text: "a" } max_new_tokens: 1)"), kLimits);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->samples, 1u);
  EXPECT_FALSE(out->isolated);
  EXPECT_EQ(out->sampling.temperature, 0);
  EXPECT_EQ(out->sampling.top_p, 1);
  EXPECT_EQ(out->sampling.min_p, 0);
  EXPECT_EQ(out->sampling.repetition_penalty, 1);
}

TEST(CodecGenerateTest, WhatIsOutOfRangeIsRefusedWithItsName) {
  const std::string good = R"(model: "m" prompts { text: "a" } )";
  const struct {
    std::string text;
    const char* words;
  } kBad[] = {
      {good, "max_new_tokens is 0"},
      {good + "max_new_tokens: 4294967295", "max_new_tokens is 4294967295"},
      {good + "max_new_tokens: 1 sampling { temperature: -1 }", "sampling.temperature is -1"},
      {good + "max_new_tokens: 1 sampling { temperature: nan }", "sampling.temperature is nan"},
      {good + "max_new_tokens: 1 sampling { top_p: 1.5 }", "sampling.top_p is 1.5; it must be over 0 and at most 1"},
      {good + "max_new_tokens: 1 sampling { top_p: nan }", "sampling.top_p is nan"},
      {good + "max_new_tokens: 1 sampling { min_p: 2 }", "sampling.min_p is 2"},
      {good + "max_new_tokens: 1 sampling { repetition_penalty: -1 }", "sampling.repetition_penalty is -1"},
      {good + "max_new_tokens: 1 samples: 0", "samples is 0"},
      {good + "max_new_tokens: 1 samples: 2", "samples is 2 with temperature 0"},
      {good + "max_new_tokens: 1 stop: ''", "stop[0] is empty"},
      {good + "max_new_tokens: 1 top_logprobs: 101", "top_logprobs is 101"},
      {good + "max_new_tokens: 1 sources: 1", "sources is 1 of 1 prompts"},
      {good + "max_new_tokens: 1 interventions { select { sites: 'x' positions { items { generated: false } } } zero {} }",
       "generated must be true"},
      {good + "max_new_tokens: 1 captures { select { sites: 'x' } gradient_of: 'd' }", "captures[0] has gradient_of"},
      {R"(model: "m" max_new_tokens: 1)", "prompts is empty"},
  };
  for (const auto& bad : kBad) {
    const auto out = DecodeGenerate(Parse(bad.text), kLimits);
    EXPECT_EQ(out.status().code(), absl::StatusCode::kInvalidArgument) << bad.text;
    EXPECT_THAT(std::string(out.status().message()), HasSubstr(bad.words)) << bad.text;
  }
}

TEST(CodecGenerateTest, Tokens) {
  v1::GeneratedToken out;
  EncodeToken({.row = 1,
               .sample = 2,
               .index = 3,
               .id = 4,
               .text = "t",
               .logprob = -0.5,
               .top = {{.id = 4, .text = "t", .logprob = -0.5}},
               .finish = api::FinishReason::kStop,
               .stop = 0},
              &out);
  EXPECT_EQ(out.row(), 1u);
  EXPECT_EQ(out.sample(), 2u);
  EXPECT_EQ(out.index(), 3u);
  EXPECT_EQ(out.id(), 4);
  EXPECT_EQ(out.text(), "t");
  EXPECT_EQ(out.logprob(), -0.5);
  EXPECT_EQ(out.top(0).id(), 4);
  EXPECT_EQ(out.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_TRUE(out.has_stop());
  EncodeToken({}, &(out = {}));
  EXPECT_FALSE(out.has_finish_reason());
  EXPECT_FALSE(out.has_stop());
}

}  // namespace
}  // namespace fluoroscope::rpc
