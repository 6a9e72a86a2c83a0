#include "rpc/codec_forward.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::rpc {
namespace {

using testing::ElementsAre;

TEST(CodecForwardTest, HeaderCarriesProvenanceAndRows) {
  api::ForwardHeader header;
  header.provenance = {.model = "m",
                       .revision = "r",
                       .weights_sha256 = "w",
                       .tokenizer_sha256 = "t",
                       .weight_processing = "none",
                       .dtype = "f32",
                       .device = "cpu",
                       .attention = "mixed",
                       .server_version = "0.1.0",
                       .plan_sha256 = "p",
                       .isolated = true,
                       .threads = 2};
  header.rows = {{.token_ids = {1, 2}, .tokens = {"a", "b"}, .bos_added = true}};
  v1::ForwardHeader out;
  EncodeForwardHeader(header, &out);
  EXPECT_EQ(out.provenance().model(), "m");
  EXPECT_EQ(out.provenance().revision(), "r");
  EXPECT_EQ(out.provenance().weights_sha256(), "w");
  EXPECT_EQ(out.provenance().tokenizer_sha256(), "t");
  EXPECT_EQ(out.provenance().weight_processing(), "none");
  EXPECT_EQ(out.provenance().dtype(), "f32");
  EXPECT_EQ(out.provenance().device(), "cpu");
  EXPECT_EQ(out.provenance().attention(), "mixed");
  EXPECT_EQ(out.provenance().server_version(), "0.1.0");
  EXPECT_EQ(out.provenance().plan_sha256(), "p");
  EXPECT_TRUE(out.provenance().isolated());
  EXPECT_EQ(out.provenance().threads(), 2u);
  EXPECT_THAT(out.rows(0).token_ids(), ElementsAre(1, 2));
  EXPECT_THAT(out.rows(0).tokens(), ElementsAre("a", "b"));
  EXPECT_TRUE(out.rows(0).bos_added());
}

TEST(CodecForwardTest, SummaryAndEstimate) {
  v1::ForwardSummary out;
  EncodeForwardSummary({.metrics = {{.name = "d", .row = 1, .position = 13, .value = 4.5}},
                        .queue_ms = 1,
                        .run_ms = 2,
                        .tokens = 3,
                        .peak_bytes = 4,
                        .reused_tokens = 5,
                        .warnings = {"w"}},
                       &out);
  EXPECT_EQ(out.metrics(0).name(), "d");
  EXPECT_EQ(out.metrics(0).row(), 1u);
  EXPECT_EQ(out.metrics(0).position(), 13);
  EXPECT_EQ(out.metrics(0).value(), 4.5);
  EXPECT_EQ(out.queue_ms(), 1);
  EXPECT_EQ(out.run_ms(), 2);
  EXPECT_EQ(out.tokens(), 3u);
  EXPECT_EQ(out.peak_bytes(), 4u);
  EXPECT_EQ(out.reused_tokens(), 5u);
  EXPECT_THAT(out.warnings(), ElementsAre("w"));

  const v1::EstimateReply estimate =
      EncodeEstimate({.peak_bytes = 1, .reply_bytes = 2, .tokens = 3, .budget_bytes = 4, .flops = 5e12, .waves = 6});
  EXPECT_EQ(estimate.peak_bytes(), 1u);
  EXPECT_EQ(estimate.reply_bytes(), 2u);
  EXPECT_EQ(estimate.tokens(), 3u);
  EXPECT_EQ(estimate.budget_bytes(), 4u);
  EXPECT_EQ(estimate.flops(), 5e12);
  EXPECT_EQ(estimate.waves(), 6u);
}

}  // namespace
}  // namespace fluoroscope::rpc
