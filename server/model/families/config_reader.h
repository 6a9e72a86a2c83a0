// Reads fields of a config.json and remembers the first thing that is wrong with them.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"

namespace fluoroscope::model {

// A field that is absent or null counts as not given. After the reads, status() tells whether all of them were good. Not thread-safe.
class ConfigReader {
 public:
  explicit ConfigReader(const nlohmann::json& config) : config_(config) {}

  bool Given(const char* field) const;

  int64_t Int(const char* field);  // required, positive
  int64_t Int(const char* field, int64_t otherwise);
  int64_t Context(const char* field, int64_t otherwise);  // at most 2^20 tokens: tables of this length are made at load
  double Number(const char* field, double otherwise);
  bool Bool(const char* field, bool otherwise);
  std::string String(const char* field, const std::string& otherwise);
  nlohmann::json Object(const char* field);  // an empty object when not given

  // A field whose other values would change the mathematics in a way that is not supported.
  void RequireBool(const char* field, bool only, const char* why);
  void RequireInt(const char* field, int64_t only, const char* why);
  void RequireAbsent(std::initializer_list<const char*> fields);

  void Fail(const std::string& message);
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json* Find(const char* field) const;

  const nlohmann::json& config_;
  absl::Status status_;
};

}  // namespace fluoroscope::model
