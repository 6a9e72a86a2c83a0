#include "rpc/strict.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/unknown_field_set.h>

#include <string>
#include <vector>

#include "fluoroscope/v1/inference.pb.h"
#include "gtest/gtest.h"

namespace fluoroscope::rpc {
namespace {

using v1::ForwardRequest;

ForwardRequest Parse(const std::string& text) {
  ForwardRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &request)) << text;
  return request;
}

TEST(StrictTest, AGoodRequestPasses) {
  EXPECT_TRUE(CheckStrict(ForwardRequest()).ok());
  EXPECT_TRUE(CheckStrict(Parse(R"pb(
                model: "m"
                prompts { text: "a" bos: BOS_NEVER }
                prompts { tokens { ids: [ 1, 2 ] } }
                captures {
                  select {
                    sites: "x"
                    positions {
                      items { last: true }
                      items { range {} }
                    }
                  }
                  reduction {
                    dot {
                      directions {
                        dtype: DTYPE_F32
                        shape: [ 1, 1 ]
                        data: "abcd"
                      }
                    }
                  }
                }
                interventions { copy { row: 1 } }
                metrics { logit_difference { right { id: 0 } } }
                logits {}
              )pb"))
                  .ok());
}

TEST(StrictTest, AnUnknownFieldAnywhereIsNamed) {
  ForwardRequest top;
  top.GetReflection()->MutableUnknownFields(&top)->AddVarint(99, 1);
  EXPECT_EQ(
      CheckStrict(top).message(),
      "the request has the unknown field number 99 (message fluoroscope.v1.ForwardRequest); this server does not know it, and ignoring it "
      "could give a wrong answer");
  ForwardRequest deep = Parse("captures { select { sites: 'x' } } captures { select { sites: 'x' } }");
  auto* select = deep.mutable_captures(1)->mutable_select();
  select->GetReflection()->MutableUnknownFields(select)->AddFixed32(1234, 1);
  const absl::Status status = CheckStrict(deep);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()).substr(0, 95),
            "captures[1].select has the unknown field number 1234 (message fluoroscope.v1.Selection); this s");
}

TEST(StrictTest, EnumsOfZeroOrWithoutAName) {
  ForwardRequest request = Parse("prompts { text: 'a' } prompts { text: 'a' bos: BOS_UNSPECIFIED }");
  EXPECT_EQ(CheckStrict(request).message(), "prompts[1].bos is 0; it must be one of BOS_DEFAULT, BOS_ALWAYS, BOS_NEVER, or absent");
  request.mutable_prompts(1)->set_bos(static_cast<v1::Bos>(77));
  EXPECT_EQ(CheckStrict(request).message(), "prompts[1].bos is 77; it must be one of BOS_DEFAULT, BOS_ALWAYS, BOS_NEVER, or absent");
}

TEST(StrictTest, EmptyOneofsAndFalseMarkers) {
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"prompts {}", "prompts[0].input is empty: give one of text, tokens, activations"},
           {"captures { reduction {} }", "captures[0].reduction.kind is empty: give one of last, top_k, dot, lens, writes"},
           {"interventions {}",
            "interventions[0].kind is empty: give one of copy, zero, mean, set, add, scale, interpolate, resample, project_out, "
            "swap_subspace, noise"},
           {"metrics { name: 'd' }",
            "metrics[0].kind is empty: give one of logit_difference, mean_logit, probability, log_probability, cross_entropy, kl, js, l2, "
            "rank, read_out"},
           {"logits { tokens {} }", "logits.tokens[0].token is empty: give one of id, text"},
           {"logits { positions { items { index: 0 } items {} } }",
            "logits.positions.items[1].kind is empty: give one of all, last, index, range, occurrences_of, generated"},
           {"logits { positions { items { all: false } } }", "logits.positions.items[0].all must be true when it is given"},
           {"captures { reduction { last: false } }", "captures[0].reduction.last must be true when it is given"},
       }) {
    const absl::Status status = CheckStrict(Parse(text));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(status.message(), message);
  }
}

}  // namespace
}  // namespace fluoroscope::rpc
