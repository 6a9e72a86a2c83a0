#include "rpc/codec_attribution.h"

#include <google/protobuf/text_format.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;
using testing::HasSubstr;

constexpr char kPair[] = R"(pairs { clean { tokens { ids: 1 ids: 2 } } corrupt { tokens { ids: 3 ids: 2 } } })";
constexpr char kMetric[] = R"(metrics { name: "m" logit_difference { right { id: 1 } wrong { id: 2 } } })";

std::string Grid() { return std::string(R"(grid { model: "m" sites: "hook_resid_pre" over: SWEEP_AXIS_LAYER )") + kPair + kMetric + "}"; }
std::string Paths() {
  return std::string(R"(paths { model: "m" senders { nodes { site: "hook_embed" } } receivers { nodes { site: "logits" } } )") + kPair +
         kMetric + "}";
}

template <typename Message>
Message Parse(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

absl::StatusOr<api::AttributionRequest> Nodes(const std::string& more) {
  return DecodeAttribute(Parse<pb::AttributeRequest>(Grid() + more), {});
}
absl::StatusOr<api::EdgesRequest> Edges(const std::string& more) {
  return DecodeAttributeEdges(Parse<pb::AttributeEdgesRequest>(Paths() + more), {});
}

TEST(CodecAttributionTest, Methods) {
  const auto method = [](const char* name) { return Nodes(std::string("method: ATTRIBUTION_METHOD_") + name)->method; };
  EXPECT_EQ(Nodes("")->method, api::AttributionMethod::kAttributionPatching);
  EXPECT_EQ(method("ATTRIBUTION_PATCHING"), api::AttributionMethod::kAttributionPatching);
  EXPECT_EQ(method("GRADIENT_TIMES_INPUT"), api::AttributionMethod::kGradientTimesInput);
  EXPECT_EQ(method("INTEGRATED_GRADIENTS"), api::AttributionMethod::kIntegratedGradients);
  EXPECT_EQ(method("QK_FIX"), api::AttributionMethod::kQkFix);
  EXPECT_EQ(method("ATP_STAR"), api::AttributionMethod::kAtpStar);
  EXPECT_EQ(method("INTEGRATED_GRADIENTS_ACTIVATIONS"), api::AttributionMethod::kIntegratedActivations);
  EXPECT_EQ(Edges("")->method, api::EdgeMethod::kEap);
  EXPECT_EQ(Edges("method: EDGE_METHOD_EAP_IG_ACTIVATIONS")->method, api::EdgeMethod::kEapIgActivations);
  EXPECT_EQ(Edges("method: EDGE_METHOD_EAP_IG")->method, api::EdgeMethod::kEapIg);
}

TEST(CodecAttributionTest, StepsAndCellsToVerify) {
  EXPECT_EQ(Nodes("")->steps, 8u);
  EXPECT_EQ(Nodes("steps: 256")->steps, 256u);
  EXPECT_EQ(Edges("steps: 3")->steps, 3u);
  EXPECT_EQ(Nodes("")->verify.top + Nodes("")->verify.random, 0u);
  EXPECT_EQ(Edges("")->verify.top + Edges("")->verify.random, 0u);
  EXPECT_EQ(Edges("verify { top: 3 seed: 5 }")->verify.top, 3u);
  EXPECT_EQ(Edges("verify { top: 3 seed: 5 }")->verify.random, 0u);
  EXPECT_EQ(Edges("verify { top: 3 seed: 5 }")->verify.seed, 5u);
  const auto request = Nodes("verify { top: 4096 random: 7 seed: 18446744073709551615 }");
  EXPECT_EQ(request->verify.top, 4096u);
  EXPECT_EQ(request->verify.random, 7u);
  EXPECT_EQ(request->verify.seed, ~uint64_t{0});
}

TEST(CodecAttributionTest, WhatIsWrongIsNamed) {
  EXPECT_THAT(Nodes("steps: 257").status().message(), HasSubstr("steps is 257; 1 to 256"));
  EXPECT_THAT(Edges("steps: 257").status().message(), HasSubstr("steps is 257; 1 to 256"));
  EXPECT_THAT(Nodes("verify { }").status().message(), HasSubstr("verify has neither top nor random"));
  EXPECT_THAT(Nodes("verify { top: 4097 }").status().message(), HasSubstr("verify.top is 4097; at most 4096"));
  EXPECT_THAT(Nodes("verify { random: 4294967295 }").status().message(), HasSubstr("verify.random is 4294967295; at most 4096"));
  EXPECT_THAT(Edges("verify { seed: 1 }").status().message(), HasSubstr("verify has neither top nor random"));
  EXPECT_THAT(Edges("verify { random: 4097 }").status().message(), HasSubstr("verify.random is 4097; at most 4096"));
  EXPECT_THAT(Nodes("method: ATTRIBUTION_METHOD_UNSPECIFIED").status().message(), HasSubstr("method"));
  EXPECT_THAT(DecodeAttribute(pb::AttributeRequest(), {}).status().message(), HasSubstr("grid is missing"));
  EXPECT_THAT(DecodeAttributeEdges(pb::AttributeEdgesRequest(), {}).status().message(), HasSubstr("paths is missing"));
}

}  // namespace
}  // namespace fluoroscope::rpc
