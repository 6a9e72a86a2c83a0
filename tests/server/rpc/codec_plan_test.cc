// Everything that plan.proto can say arrives; what it must not say is refused, naming the field. Through DecodeForward, as on the wire.
#include "rpc/codec_plan.h"

#include <google/protobuf/text_format.h>

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rpc/codec_forward.h"

namespace fluoroscope::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

absl::StatusOr<api::ForwardRequest> Decode(const std::string& text, const DecodeLimits& limits = {}) {
  v1::ForwardRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &request)) << text;
  return DecodeForward(request, limits);
}

TEST(CodecPlanTest, Prompts) {
  const auto request = Decode(R"pb(
    model: "m"
    prompts { text: "Hello" }
    prompts { text: "" bos: BOS_ALWAYS parse_special_tokens: true }
    prompts { text: "x" bos: BOS_NEVER }
    prompts { tokens { ids: [ 5, 6 ] } }
    prompts {
      activations {
        start_at: "blocks.1.hook_resid_pre"
        value {
          dtype: DTYPE_F32
          shape: [ 1, 2 ]
          data: "abcdefgh"
        }
        token_ids: 7
      }
    }
  )pb");
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(request->prompts.size(), 5u);
  EXPECT_EQ(std::get<std::string>(request->prompts[0].input), "Hello");
  EXPECT_EQ(request->prompts[0].bos, api::Bos::kDefault);
  EXPECT_FALSE(request->prompts[0].parse_special_tokens);
  EXPECT_EQ(request->prompts[1].bos, api::Bos::kAlways);
  EXPECT_TRUE(request->prompts[1].parse_special_tokens);
  EXPECT_EQ(request->prompts[2].bos, api::Bos::kNever);
  EXPECT_THAT(std::get<api::TokenIds>(request->prompts[3].input), ElementsAre(5, 6));
  const auto& activations = std::get<api::Activations>(request->prompts[4].input);
  EXPECT_EQ(activations.start_at, "blocks.1.hook_resid_pre");
  EXPECT_THAT(activations.value.shape, ElementsAre(1, 2));
  EXPECT_EQ(activations.value.bytes.size(), 8u);
  EXPECT_THAT(activations.token_ids, ElementsAre(7));
}

TEST(CodecPlanTest, SelectionsAndReductions) {
  const auto request = Decode(R"pb(
    model: "m"
    prompts { text: "a" }
    prompts { text: "b" }
    captures {
      select {
        sites: [ "blocks.*.hook_resid_pre", "ln_final.hook_scale" ]
        layers: [ 0, -1 ]
        positions {
          items { all: true }
          items { last: true }
          items { index: -2 }
          items { range { start: 1 end: -1 } }
          items { range {} }
          items { occurrences_of { text: " Mary" } }
          items { occurrences_of { id: 7 } }
        }
        heads: [ 3 ]
        rows: [ 1 ]
      }
    }
    captures {
      select { sites: "x" }
      reduction { last: true }
    }
    captures {
      select { sites: "x" }
      reduction { top_k { k: 5 } }
    }
    captures {
      select { sites: "x" }
      reduction {
        dot {
          directions {
            dtype: DTYPE_F32
            shape: [ 1, 1 ]
            data: "\0\0\0\0"
          }
        }
      }
    }
  )pb");
  ASSERT_TRUE(request.ok()) << request.status();
  const api::Selection& select = request->captures[0].select;
  EXPECT_THAT(select.sites, ElementsAre("blocks.*.hook_resid_pre", "ln_final.hook_scale"));
  EXPECT_THAT(select.layers, ElementsAre(0, -1));
  EXPECT_THAT(select.heads, ElementsAre(3));
  EXPECT_THAT(select.rows, ElementsAre(1));
  const api::Positions& items = *select.positions;
  ASSERT_EQ(items.size(), 7u);
  EXPECT_TRUE(std::holds_alternative<api::AllPositions>(items[0]));
  EXPECT_TRUE(std::holds_alternative<api::LastPosition>(items[1]));
  EXPECT_EQ(std::get<int64_t>(items[2]), -2);
  EXPECT_EQ(std::get<api::PositionRange>(items[3]).start, 1);
  EXPECT_EQ(std::get<api::PositionRange>(items[3]).end, -1);
  EXPECT_FALSE(std::get<api::PositionRange>(items[4]).start.has_value());
  EXPECT_EQ(std::get<std::string>(std::get<api::OccurrencesOf>(items[5]).token), " Mary");
  EXPECT_EQ(std::get<int64_t>(std::get<api::OccurrencesOf>(items[6]).token), 7);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(request->captures[0].reduction));
  EXPECT_TRUE(std::holds_alternative<api::ReduceLast>(request->captures[1].reduction));
  EXPECT_FALSE(request->captures[1].select.positions.has_value());
  EXPECT_EQ(std::get<api::ReduceTopK>(request->captures[2].reduction).k, 5u);
  EXPECT_THAT(std::get<api::ReduceDot>(request->captures[3].reduction).directions.shape, ElementsAre(1, 1));
}

TEST(CodecPlanTest, ReadOutReductions) {
  const auto request = Decode(R"pb(
    model: "m"
    prompts { text: "a" }
    captures {
      select { sites: "x" }
      reduction { lens { top_k: 5 } }
    }
    captures {
      select { sites: "x" }
      reduction {
        lens {
          tokens { text: " Mary" }
          tokens { id: 7 }
        }
      }
    }
    captures {
      select { sites: "x" }
      reduction {
        writes {
          directions {
            dtype: DTYPE_F32
            shape: [ 1, 1 ]
            data: "\0\0\0\0"
          }
          top_k: 2
        }
      }
    }
  )pb");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(std::get<api::ReduceLens>(request->captures[0].reduction).top_k, 5u);
  const auto& followed = std::get<api::ReduceLens>(request->captures[1].reduction);
  EXPECT_EQ(followed.top_k, 0u);
  ASSERT_EQ(followed.tokens.size(), 2u);
  EXPECT_EQ(std::get<std::string>(followed.tokens[0]), " Mary");
  EXPECT_EQ(std::get<int64_t>(followed.tokens[1]), 7);
  const auto& writes = std::get<api::ReduceWrites>(request->captures[2].reduction);
  EXPECT_EQ(writes.top_k, 2u);
  EXPECT_THAT(writes.directions.shape, ElementsAre(1, 1));

  for (const char* lens : {"", "top_k: 1 tokens { id: 1 }"}) {
    const auto bad =
        Decode(std::string("model: \"m\" prompts { text: \"a\" } captures { select { sites: \"x\" } reduction { lens {") + lens + "} } }");
    EXPECT_EQ(bad.status().message(), "captures[0].reduction.lens needs either top_k or tokens");
  }
}

TEST(CodecPlanTest, InterventionsMetricsAndLogits) {
  const auto request = Decode(R"pb(
    model: "m"
    prompts { text: "a" }
    prompts { text: "b" }
    interventions {
      select { sites: "x" rows: 0 }
      copy {
        row: 1
        positions { items { index: 3 } }
      }
    }
    interventions {
      select { sites: "x" }
      copy {}
    }
    metrics {
      name: "d"
      rows: [ 0, 1 ]
      positions { items { last: true } }
      logit_difference {
        right { text: " Mary" }
        wrong { id: 3 }
        wrong { id: 4 }
      }
    }
    logits {
      positions { items { all: true } }
      tokens { id: 1 }
      rows: 1
    }
    isolated: true
  )pb");
  ASSERT_TRUE(request.ok()) << request.status();
  const auto& copy = std::get<api::CopyFromRow>(request->interventions[0].kind);
  EXPECT_EQ(copy.row, 1u);
  EXPECT_EQ(std::get<int64_t>(copy.positions->at(0)), 3);
  EXPECT_FALSE(std::get<api::CopyFromRow>(request->interventions[1].kind).positions.has_value());
  const api::Metric& metric = request->metrics[0];
  EXPECT_EQ(metric.name, "d");
  EXPECT_THAT(metric.rows, ElementsAre(0, 1));
  EXPECT_TRUE(metric.positions.has_value());
  EXPECT_EQ(std::get<std::string>(std::get<api::LogitDifference>(metric.kind).right.at(0)), " Mary");
  EXPECT_EQ(std::get<api::LogitDifference>(metric.kind).wrong.size(), 2u);
  EXPECT_EQ(std::get<int64_t>(request->logits->tokens.at(0)), 1);
  EXPECT_THAT(request->logits->rows, ElementsAre(1));
  EXPECT_TRUE(request->isolated);
}

TEST(CodecPlanTest, WhatIsWrongIsNamed) {
  const std::string start = "model: 'm' prompts { text: 'a' } ";
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"prompts { text: 'a' }", "model is empty"},
           {"model: 'm'", "prompts is empty: give at least one"},
           {"model: 'm' prompts { tokens {} }", "prompts[0].tokens.ids is empty"},
           {"model: 'm' prompts { tokens { ids: [1, -3] } }", "prompts[0].tokens.ids[1] is -3"},
           {"model: 'm' prompts { tokens { ids: 1 } bos: BOS_NEVER }", "prompts[0].bos must be absent when the prompt is no text"},
           {"model: 'm' prompts { tokens { ids: 1 } parse_special_tokens: true }", "prompts[0].parse_special_tokens must be absent"},
           {"model: 'm' prompts { activations {} bos: BOS_NEVER }", "prompts[0].bos must be absent when the prompt is no text"},
           {"model: 'm' prompts { activations {} }", "prompts[0].activations.value.dtype must be DTYPE_F32"},
           {"model: 'm' prompts { activations { value { dtype: DTYPE_F32 shape: [1, 1] data: 'abcd' } token_ids: [1, -2] } }",
            "prompts[0].activations.token_ids[1] is -2"},
           {"model: 'm' prompts { activations { start_at: '" + std::string(257, 'x') + "' } }",
            "prompts[0].activations.start_at is longer than 256 bytes"},
           {start + "captures {}", "captures[0].select.sites is empty: give at least one hook name"},
           {start + "captures { select {} }", "captures[0].select.sites is empty"},
           {start + "captures { select { sites: '' } }", "captures[0].select.sites[0] is an empty name"},
           {start + "captures { select { sites: '" + std::string(257, 'x') + "' } }",
            "captures[0].select.sites[0] has 257 bytes; at most 256"},
           {start + "captures { select { sites: 'x' rows: 1 } }",
            "captures[0].select.rows[0] is 1; the request has 1 prompt, so 0 is the only row"},
           {start + "captures { select { sites: 'x' positions {} } }", "captures[0].select.positions.items is empty"},
           {start + "captures { select { sites: 'x' } reduction { top_k {} } }", "captures[0].reduction.top_k.k is 0"},
           {start + "captures { select { sites: 'x' } reduction { dot {} } }",
            "captures[0].reduction.dot.directions.dtype must be DTYPE_F32"},
           {start + "interventions { select { sites: 'x' } copy { row: 4 } }", "interventions[0].copy.row is 4; the request has 1 prompts"},
           {start + "interventions { copy {} }", "interventions[0].select.sites is empty"},
           {start + "metrics { logit_difference {} }", "metrics[0].name is empty"},
           {start + "metrics { name: 'd' logit_difference { wrong { id: 1 } } }", "metrics[0].logit_difference.right is empty"},
           {start + "metrics { name: 'd' logit_difference { right { id: 1 } } }", "metrics[0].logit_difference.wrong is empty"},
           {start + "metrics { name: 'd' logit_difference { right { id: -1 } } }", "metrics[0].logit_difference.right[0].id is -1"},
           {start + "metrics { name: 'd' logit_difference { right { text: '' } } }", "metrics[0].logit_difference.right[0].text is empty"},
           {start + "logits { top_k: 3 tokens { id: 1 } }", "logits has tokens and top_k"},
       }) {
    const auto request = Decode(text);
    EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(request.status().message()), StartsWith(why));
  }
  const std::string twice = "metrics { name: 'd' logit_difference { right { id: 1 } wrong { id: 2 } } } ";
  EXPECT_THAT(std::string(Decode(start + twice + twice).status().message()),
              HasSubstr("metrics[1].name is \"d\", which an earlier metric has already"));
}

TEST(CodecPlanTest, LimitsGiveBothNumbers) {
  std::string text = "model: 'm' ";
  for (int i = 0; i < 4; ++i) text += "prompts { tokens { ids: [1, 2, 3] } } ";
  EXPECT_TRUE(Decode(text, {.max_prompts = 4, .max_tokens = 12}).ok());
  const absl::Status prompts = Decode(text, {.max_prompts = 3, .max_tokens = 12}).status();
  EXPECT_EQ(prompts.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(prompts.message(), "prompts has 4 entries; this server takes at most 3 in one request (limits.max_prompts)");
  const absl::Status tokens = Decode(text, {.max_prompts = 4, .max_tokens = 11}).status();
  EXPECT_EQ(tokens.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tokens.message(), "prompts has 12 token ids; this server takes at most 11 in one request (limits.max_tokens)");
}

TEST(CodecPlanTest, ListsAreBounded) {
  struct Case {
    const char* field;
    int most;
    std::function<void(v1::ForwardRequest&)> add;
  };
  const auto select = [](v1::ForwardRequest& r) {
    return (r.captures_size() ? r.mutable_captures(0) : r.add_captures())->mutable_select();
  };
  const auto metric = [](v1::ForwardRequest& r) { return r.metrics_size() ? r.mutable_metrics(0) : r.add_metrics(); };
  const auto named = [&](v1::ForwardRequest& r) {
    metric(r)->set_name("d");
    return metric(r)->mutable_logit_difference();
  };
  const Case cases[] = {
      {"captures", 4096, [](auto& r) { r.add_captures()->mutable_select()->add_sites("x"); }},
      {"interventions", 256,
       [](auto& r) {
         auto* copy = r.add_interventions();
         copy->mutable_select()->add_sites("x");
         copy->mutable_copy()->set_row(0);
       }},
      {"metrics", 4096, [](auto& r) { r.add_metrics()->mutable_logit_difference()->add_right()->set_id(0); }},
      {"captures[0].select.sites", 4096, [&](auto& r) { select(r)->add_sites("x"); }},
      {"captures[0].select.layers", 4096, [&](auto& r) { select(r)->add_layers(0); }},
      {"captures[0].select.heads", 4096, [&](auto& r) { select(r)->add_heads(0); }},
      {"captures[0].select.rows", 4096, [&](auto& r) { select(r)->add_rows(0); }},
      {"captures[0].select.positions.items", 4096, [&](auto& r) { select(r)->mutable_positions()->add_items()->set_index(0); }},
      {"logits.tokens", 4096, [](auto& r) { r.mutable_logits()->add_tokens()->set_id(0); }},
      {"logits.rows", 4096, [](auto& r) { r.mutable_logits()->add_rows(0); }},
      {"metrics[0].rows", 4096, [&](auto& r) { named(r), metric(r)->add_rows(0); }},
      {"metrics[0].logit_difference.right", 4096, [&](auto& r) { named(r)->add_right()->set_id(0); }},
      {"metrics[0].logit_difference.wrong", 4096,
       [&](auto& r) {
         if (!metric(r)->has_logit_difference()) named(r)->add_right()->set_id(0);
         named(r)->add_wrong()->set_id(0);
       }},
  };
  for (const Case& c : cases) {
    v1::ForwardRequest request;
    request.set_model("m");
    request.add_prompts()->set_text("a");
    for (int i = 0; i < c.most; ++i) c.add(request);
    if (request.captures_size() == 1 && request.captures(0).select().sites().empty()) select(request)->add_sites("x");
    EXPECT_NE(DecodeForward(request, {}).status().code(), absl::StatusCode::kResourceExhausted) << c.field;
    c.add(request);
    const absl::Status status = DecodeForward(request, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << c.field;
    EXPECT_EQ(status.message(),
              absl::StrCat(c.field, " has ", c.most + 1, " entries; this server takes at most ", c.most, " in one request"));
  }
}

TEST(CodecPlanTest, LastAndPositionsExcludeEachOther) {
  const absl::Status status = Decode(R"pb(
                                model: "m"
                                prompts { text: "a" }
                                captures {
                                  select {
                                    sites: "x"
                                    positions { items { all: true } }
                                  }
                                  reduction { last: true }
                                }
                              )pb")
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "captures[0].reduction.last and select.positions are both given; they exclude each other: last is a choice of positions");
}

TEST(CodecPlanTest, Gradients) {
  const std::string front = R"(model: "m" prompts { text: "a" } captures { select { sites: "x" } )";
  EXPECT_EQ(Decode(front + R"(gradient_of: "d" })")->captures.at(0).gradient_of, "d");
  EXPECT_EQ(Decode(front + "}")->captures.at(0).gradient_of, "");
  for (const char* reduction : {"last: true", "top_k { k: 2 }", "dot { directions { dtype: DTYPE_F32 shape: [ 1, 1 ] data: 'abcd' } }"})
    EXPECT_TRUE(Decode(front + "gradient_of: 'd' reduction { " + reduction + " } }").ok()) << reduction;
  const std::pair<std::string, const char*> bad[] = {
      {"gradient_of: 'd' keep { ttl_seconds: 1 } }", "captures[0].gradient_of and keep exclude each other"},
      {"gradient_of: 'd' reduction { lens { top_k: 1 } } }", "captures[0].gradient_of and this reduction exclude each other"},
      {"gradient_of: '" + std::string(257, 'd') + "' }", "captures[0].gradient_of is longer than 256 bytes"},
  };
  for (const auto& [end, why] : bad) {
    const auto request = Decode(front + end);
    EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << end;
    EXPECT_THAT(std::string(request.status().message()), HasSubstr(why)) << end;
  }
}

}  // namespace
}  // namespace fluoroscope::rpc
