// tokenizer_probe DIR: answers lines of JSON on stdin with lines of JSON, through the same class as the server.
//   {"text": "…", "bos": "default|always|never", "parse": false} -> {"ids": […], "bos_added": …, "decoded": "…"} or {"error": "…"}
//   {"ids": […], "skip": false}                                  -> {"text": "…", "tokens": ["…"]}
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "tokenizer/tokenizer.h"

using nlohmann::json;
namespace ft = fluoroscope::tokenizer;
namespace api = fluoroscope::api;

namespace {

json Error(const absl::Status& status) { return {{"error", status.ToString()}}; }

json Answer(const ft::Tokenizer& tokenizer, const json& question) {
  if (question.contains("ids")) {
    auto ids = question["ids"].get<std::vector<int64_t>>();
    auto text = tokenizer.Decode(ids, question["skip"].get<bool>());
    if (!text.ok()) return Error(text.status());
    json tokens = json::array();
    for (int64_t id : ids) tokens.push_back(tokenizer.TokenText(id));
    return {{"text", *text}, {"tokens", tokens}};
  }
  const std::string bos = question["bos"];
  auto mode = bos == "always" ? api::Bos::kAlways : bos == "never" ? api::Bos::kNever : api::Bos::kDefault;
  auto encoded = tokenizer.Encode(question["text"].get<std::string>(), mode, question["parse"].get<bool>());
  if (!encoded.ok()) return Error(encoded.status());
  return {{"ids", encoded->ids}, {"bos_added", encoded->bos_added}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto tokenizer = ft::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::cout << Error(tokenizer.status()).dump() << std::endl;
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) std::cout << Answer(**tokenizer, json::parse(line)).dump() << std::endl;
}
