#include "rpc/codec_handles.h"

#include <google/protobuf/text_format.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rpc/codec_forward.h"

namespace fluoroscope::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <typename Message>
Message Parse(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

const std::string kHeader = R"(model: "m" site: "hook_embed" dtype: DTYPE_F16 ttl_seconds: 9 )";

TEST(CodecHandlesTest, AHeaderArrives) {
  const auto out =
      DecodePutHeader(Parse<v1::PutHeader>(kHeader + "shape: [2, 3] positions: [0, 7] token_ids: [5, 6] heads: 1 units: [0, 2, 4]"));
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->model, "m");
  EXPECT_EQ(out->site, "hook_embed");
  EXPECT_EQ(out->dtype, api::DType::kF16);
  EXPECT_THAT(out->shape, ElementsAre(2, 3));
  EXPECT_THAT(out->positions, ElementsAre(0, 7));
  EXPECT_THAT(out->token_ids, ElementsAre(5, 6));
  EXPECT_THAT(out->heads, ElementsAre(1));
  EXPECT_THAT(out->units, ElementsAre(0, 2, 4));
  EXPECT_EQ(out->ttl_seconds, 9u);
}

TEST(CodecHandlesTest, BadHeaders) {
  for (const auto& [text, why] : std::vector<std::pair<std::string, const char*>>{
           {R"(site: "x" dtype: DTYPE_F32 shape: 1 ttl_seconds: 1)", "model is empty"},
           {R"(model: "m" dtype: DTYPE_F32 shape: 1 ttl_seconds: 1)", "header.site is empty"},
           {R"(model: "m" site: "x" shape: 1 ttl_seconds: 1)", "header.dtype is missing"},
           {R"(model: "m" site: "x" dtype: DTYPE_F32 shape: 1)", "header.ttl_seconds is 0"},
           {kHeader, "header.shape has 0 axes"},
           {kHeader + "shape: [4, 0]", "header.shape is [4, 0]"},
           {kHeader + "shape: [-1]", "header.shape is [-1]"},
           {kHeader + "shape: [4611686018427387904, 4]", "64 bits"},
           {kHeader + "shape: 2 positions: [3, 3]", "header.positions[1] is 3"},
           {kHeader + "shape: 2 positions: [-1, 3]", "header.positions[0] is -1"},
           {kHeader + "shape: 2 heads: [2, 1]", "header.heads[1] is 1"},
           {kHeader + "shape: 2 units: 4294967295", "header.units[0]"},
           {kHeader + "shape: 2 token_ids: -5", "header.token_ids[0] is -5"},
       }) {
    const auto out = DecodePutHeader(Parse<v1::PutHeader>(text));
    EXPECT_EQ(out.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(out.status().message()), HasSubstr(why)) << text;
  }
}

TEST(CodecHandlesTest, AnEmptyPartIsRefused) { EXPECT_THAT(std::string(CheckPut({}).message()), HasSubstr("part is empty")); }

TEST(CodecHandlesTest, Leases) {
  const auto lease = DecodeRenewHandle(Parse<v1::RenewHandleRequest>(R"(handle: "h" ttl_seconds: 3)"));
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ(lease->id, "h");
  EXPECT_EQ(lease->ttl_seconds, 3u);
  EXPECT_FALSE(DecodeRenewHandle(Parse<v1::RenewHandleRequest>(R"(handle: "h")")).ok());
  EXPECT_FALSE(DecodeRenewHandle(Parse<v1::RenewHandleRequest>("ttl_seconds: 3")).ok());
  EXPECT_FALSE(DecodeDeleteHandle({}).ok());
  EXPECT_FALSE(DecodeGetHandle({}).ok());
  EXPECT_TRUE(DecodeListHandles({}).ok());
  EXPECT_FALSE(DecodeDeleteHandle(Parse<v1::DeleteHandleRequest>("handle: \"" + std::string(65, 'a') + "\"")).ok());
}

TEST(CodecHandlesTest, EveryFieldOfAHandleIsSent) {
  api::Handle handle;
  handle.id = "i";
  handle.model = "m";
  handle.weights_sha256 = "w";
  handle.site = "s";
  handle.layer = 0;
  handle.dtype = api::DType::kBF16;
  handle.shape = {2, 3};
  handle.byte_size = 12;
  handle.row = 4;
  handle.positions = {5, 6};
  handle.token_ids = {7, 8};
  handle.heads = {9};
  handle.units = {10, 11, 12};
  handle.row_length = 13;
  handle.seconds_left = 1.5;
  handle.uploaded = true;
  handle.plan_sha256 = "p";
  handle.capture = 14;
  v1::Handle out;
  EncodeHandle(handle, &out);
  EXPECT_EQ(
      out.ShortDebugString(),
      R"(id: "i" model: "m" weights_sha256: "w" site: "s" layer: 0 dtype: DTYPE_BF16 shape: 2 shape: 3 byte_size: 12 row: 4 positions: 5 )"
      R"(positions: 6 token_ids: 7 token_ids: 8 heads: 9 units: 10 units: 11 units: 12 row_length: 13 seconds_left: 1.5 uploaded: true )"
      R"(plan_sha256: "p" capture: 14)");
}

absl::StatusOr<api::ForwardRequest> Forward(const std::string& parts) {
  return DecodeForward(Parse<v1::ForwardRequest>(R"(model: "m" prompts { text: "a" } prompts { text: "b" } )" + parts), {});
}

TEST(CodecHandlesTest, SourcesOfInterventions) {
  const auto out = Forward(R"(
      captures { select { sites: "x" } keep { ttl_seconds: 60 } }
      interventions { select { sites: "x" } copy { handle: "h" positions { items { index: 2 } } } }
      interventions { select { sites: "x" } mean { of_handle { handle: "i" } } }
      interventions { select { sites: "x" } set { from_handle { handle: "j" positions { items { last: true } } } } }
      interventions { select { sites: "x" } add { from_handle { handle: "k" } scale: 2 } })");
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->captures[0].keep_seconds, 60u);
  EXPECT_EQ(std::get<api::CopyFromRow>(out->interventions[0].kind).handle, "h");
  EXPECT_EQ(std::get<int64_t>(std::get<api::CopyFromRow>(out->interventions[0].kind).positions->front()), 2);
  EXPECT_EQ(std::get<api::MeanOfRows>(out->interventions[1].kind).handle, "i");
  EXPECT_TRUE(std::get<api::Set>(out->interventions[2].kind).handle.positions);
  EXPECT_EQ(std::get<api::Add>(out->interventions[3].kind).handle.id, "k");
  EXPECT_EQ(std::get<api::Add>(out->interventions[3].kind).scale, 2);
}

TEST(CodecHandlesTest, BadSources) {
  const std::string value = R"(value { dtype: DTYPE_F32 shape: 1 data: "\000\000\200\077" } )";
  for (const auto& [text, why] : std::vector<std::pair<std::string, const char*>>{
           {R"(interventions { select { sites: "x" } copy { row: 1 handle: "h" } })", "row 1 and a handle"},
           {R"(interventions { select { sites: "x" } set { from_handle {} } })", "set.from_handle.handle is empty"},
           {R"(interventions { select { sites: "x" } set { )" + value + R"(from_handle { handle: "h" } } })", "value and from_handle"},
           {R"(interventions { select { sites: "x" } add { )" + value + R"(from_handle { handle: "h" } } })", "value and from_handle"},
           {R"(interventions { select { sites: "x" } mean { of_handle {} } })", "of_handle.handle is empty"},
           {R"(captures { select { sites: "x" } keep {} })", "keep.ttl_seconds is 0"},
           {R"(captures { select { sites: "x" } reduction { top_k { k: 1 } } keep { ttl_seconds: 1 } })", "exclude each other"},
       }) {
    const auto out = Forward(text);
    EXPECT_EQ(out.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(out.status().message()), HasSubstr(why)) << text;
  }
}

}  // namespace
}  // namespace fluoroscope::rpc
