#include "tensor/safetensors_header.h"

#include <ostream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "safetensors_bytes.h"

namespace fluoroscope::tensor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<Header> Parse(const std::string& file) { return ParseHeader(AsBytes(file), file.size()); }

TEST(SafetensorsHeaderTest, ReadsEntriesAndMetadata) {
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
      R"("s":{"dtype":"I64","shape":[],"data_offsets":[28,36]},"e":{"dtype":"F16","shape":[0,7],"data_offsets":[28,28]}}   )";
  const auto header = Parse(SafetensorsBytes(json, std::string(36, 'x')));
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->data_begin, 8 + json.size());
  EXPECT_THAT(header->metadata, ElementsAre(testing::Pair("format", "pt")));
  ASSERT_EQ(header->tensors.size(), 4u);
  const TensorEntry& w = header->tensors.at("w");
  EXPECT_EQ(w.dtype, FileDType::kF32);
  EXPECT_THAT(w.shape, ElementsAre(2, 3));
  EXPECT_EQ(w.begin, header->data_begin + 4);
  EXPECT_EQ(w.end, header->data_begin + 28);
  EXPECT_THAT(header->tensors.at("s").shape, ElementsAre());
  EXPECT_EQ(header->tensors.at("e").begin, header->tensors.at("e").end);
}

TEST(SafetensorsHeaderTest, TheWholeFileNeedNotBeThere) {
  const std::string file = SafetensorsBytes(R"({"w":{"dtype":"U8","shape":[1000],"data_offsets":[0,1000]}})", "");
  EXPECT_TRUE(ParseHeader(AsBytes(file), file.size() + 1000).ok());
  EXPECT_FALSE(ParseHeader(AsBytes(file).first(20), file.size() + 1000).ok());
}

TEST(SafetensorsHeaderTest, AFileWithoutTensors) {
  EXPECT_TRUE(Parse(SafetensorsBytes("{}", "")).ok());
  const auto status = Parse(SafetensorsBytes("{}", "xy")).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("2 bytes behind the last tensor"));
}

TEST(SafetensorsHeaderTest, EveryDTypeHasItsNameAndSize) {
  for (const auto& [name, size] : std::vector<std::pair<std::string, size_t>>{{"BOOL", 1},
                                                                              {"U8", 1},
                                                                              {"I8", 1},
                                                                              {"F8_E5M2", 1},
                                                                              {"F8_E4M3", 1},
                                                                              {"I16", 2},
                                                                              {"U16", 2},
                                                                              {"F16", 2},
                                                                              {"BF16", 2},
                                                                              {"I32", 4},
                                                                              {"U32", 4},
                                                                              {"F32", 4},
                                                                              {"I64", 8},
                                                                              {"U64", 8},
                                                                              {"F64", 8}}) {
    const auto dtype = FileDTypeNamed(name);
    ASSERT_TRUE(dtype.has_value()) << name;
    EXPECT_EQ(NameOf(*dtype), name);
    EXPECT_EQ(SizeOf(*dtype), size);
  }
  EXPECT_EQ(FileDTypeNamed("f32"), std::nullopt);
}

struct BadFile {
  const char* what;
  std::string bytes;
  std::string message;
};
void PrintTo(const BadFile& bad, std::ostream* out) { *out << bad.what; }

// One tensor "w" of 8 data bytes, described by `json`.
BadFile Lie(const char* what, const std::string& json, const std::string& message) {
  return {what, SafetensorsBytes("{\"w\":" + json + "}", std::string(8, 'x')), message};
}

// Two tensors of 4 bytes each among 8 bytes of data.
BadFile Two(const char* what, const std::string& a, const std::string& b, const std::string& message) {
  const std::string f32 = R"({"dtype":"F32","shape":[1],"data_offsets":)";
  return {what, SafetensorsBytes("{\"a\":" + f32 + a + "},\"b\":" + f32 + b + "}}", std::string(12, 'x')), message};
}

std::string Length(uint64_t length, const std::string& rest) {
  std::string file = SafetensorsBytes("", rest);
  std::memcpy(file.data(), &length, sizeof(length));
  return file;
}

class BadHeaderTest : public testing::TestWithParam<BadFile> {};

TEST_P(BadHeaderTest, IsRefusedWithAReason) {
  const absl::Status status = Parse(GetParam().bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadHeaderTest,
    testing::Values(
        BadFile{"EmptyFile", "", "begins with an 8-byte length, this one has 0 bytes"},
        BadFile{"SevenBytes", "1234567", "this one has 7 bytes"},
        BadFile{"HeaderLongerThanFile", Length(100, "{}"), "the header says it has 100 bytes, but the file has only 10"},
        BadFile{"HeaderOver100MB", Length(100'000'001, "{}"), "more than the allowed 100000000"},
        BadFile{"HeaderLengthAllOnes", Length(~0ull, "{}"), "18446744073709551615"},
        BadFile{"NotJson", SafetensorsBytes("{\"w\"", ""), "not valid JSON"},
        BadFile{"NoHeader", SafetensorsBytes("", ""), "does not begin with '{'"},
        BadFile{"LeadingSpace", SafetensorsBytes(" {}", ""), "does not begin with '{'"},
        BadFile{"DuplicateName", SafetensorsBytes(R"({"w":{},"w":{}})", ""), "the key \"w\" is given twice"},
        BadFile{"MetadataNotStrings", SafetensorsBytes(R"({"__metadata__":{"n":1}})", ""), "the value of \"n\" is not a string"},
        BadFile{"MetadataList", SafetensorsBytes(R"({"__metadata__":[]})", ""), "__metadata__ is not an object"},
        Lie("NotAnObject", "3", "tensor \"w\": its description is not an object"),
        Lie("UnknownField", R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1]})", "tensor \"w\": unknown field \"stride\""),
        Lie("DTypeMissing", R"({"shape":[2],"data_offsets":[0,8]})", "tensor \"w\": dtype is missing"),
        Lie("DTypeUnknown", R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})", "tensor \"w\": unknown dtype \"F31\""),
        Lie("ShapeMissing", R"({"dtype":"F32","data_offsets":[0,8]})", "tensor \"w\": shape is missing"),
        Lie("ShapeNegative", R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})",
            "tensor \"w\": shape is missing or not a list of whole"),
        Lie("ShapeFraction", R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", "tensor \"w\": shape"),
        Lie("ShapeBeyond64Bits", R"({"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]})", "tensor \"w\": shape"),
        Lie("ShapeBeyondInt64", R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]})", "tensor \"w\": shape"),
        Lie("ShapeOverflows", R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})", "is too large"),
        Lie("ShapeWrapsToEight", R"({"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]})", "is too large"),
        Lie("EmptyButOverflowing", R"({"dtype":"F32","shape":[0,4611686018427387906],"data_offsets":[0,8]})", "is too large"),
        Lie("OffsetsMissing", R"({"dtype":"F32","shape":[2]})", "tensor \"w\": data_offsets is missing"),
        Lie("OneOffset", R"({"dtype":"F32","shape":[2],"data_offsets":[8]})", "tensor \"w\": data_offsets"),
        Lie("NegativeOffset", R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", "tensor \"w\": data_offsets"),
        Lie("EndBeforeBegin", R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})",
            "tensor \"w\": data_offsets [8, 0] end before they begin"),
        Lie("OutsideTheFile", R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})",
            "tensor \"w\": data_offsets [0, 16] reach outside the file, which has 8 bytes of data; was it cut off?"),
        Lie("FarOutside", R"({"dtype":"F32","shape":[2],"data_offsets":[9223372036854775800,9223372036854775807]})", "outside the file"),
        Lie("WrongSize", R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})", "hold 8 bytes, but F32 of shape [1] needs 4"),
        Lie("HoleAtTheEnd", R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", "4 bytes behind the last tensor \"w\""),
        Lie("HoleAtTheBeginning", R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})",
            "tensor \"w\": there is a hole of 4 bytes before it"),
        Two("Overlap", "[0,4]", "[2,6]", "tensor \"b\": its bytes overlap those of \"a\""),
        Two("SameBytes", "[0,4]", "[0,4]", "tensor \"b\": its bytes overlap those of \"a\""),
        Two("HoleBetween", "[0,4]", "[8,12]", "tensor \"b\": there is a hole of 4 bytes before it")),
    [](const auto& info) { return info.param.what; });

TEST(SafetensorsHeaderTest, NamesAreMadePrintableInMessages) {
  const auto status = Parse(SafetensorsBytes("{\"a\\nb\\u0000" + std::string(500, 'c') + "\":3}", "")).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"a\\nb\\000ccc"));
  EXPECT_LT(status.message().size(), 400u);
}

// Whatever byte of a right file changes, the parser neither crashes nor lets an entry leave the file.
TEST(SafetensorsHeaderTest, EveryFlippedByteIsSafe) {
  const std::string file = SafetensorsBytes(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", std::string(8, 'x'));
  for (size_t i = 0; i < file.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = file;
      changed[i] = static_cast<char>(value);
      const auto header = Parse(changed);
      if (!header.ok()) continue;
      for (const auto& [name, entry] : header->tensors) {
        EXPECT_LE(entry.begin, entry.end);
        EXPECT_LE(entry.end, changed.size());
      }
    }
  }
}

}  // namespace
}  // namespace fluoroscope::tensor
