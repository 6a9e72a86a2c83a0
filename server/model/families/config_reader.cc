#include "model/families/config_reader.h"

#include <algorithm>

namespace fluoroscope::model {

const nlohmann::json* ConfigReader::Find(const char* field) const {
  auto it = config_.find(field);
  return it == config_.end() || it->is_null() ? nullptr : &*it;
}

void ConfigReader::Fail(const std::string& message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError("config.json: " + message);
}

bool ConfigReader::Given(const char* field) const { return Find(field) != nullptr; }

int64_t ConfigReader::Int(const char* field) {
  if (!Given(field)) {
    Fail(std::string(field) + " is missing; a positive integer is needed");
    return 1;
  }
  return Int(field, 1);
}

int64_t ConfigReader::Int(const char* field, int64_t otherwise) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return otherwise;
  // 2^31 is far above any real size and keeps every product of two sizes inside 64 bits.
  if (!value->is_number_integer() || value->get<int64_t>() <= 0 || value->get<int64_t>() > (int64_t{1} << 31)) {
    Fail(std::string(field) + " is " + value->dump() + "; a positive integer is needed");
    return 1;
  }
  return value->get<int64_t>();
}

int64_t ConfigReader::Context(const char* field, int64_t otherwise) {
  constexpr int64_t kLongest = int64_t{1} << 20;
  const int64_t tokens = Int(field, otherwise);
  if (tokens > kLongest)
    Fail(std::string(field) + " is " + std::to_string(tokens) + "; at most " + std::to_string(kLongest) + " is supported");
  return std::min(tokens, kLongest);
}

double ConfigReader::Number(const char* field, double otherwise) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return otherwise;
  if (!value->is_number()) {
    Fail(std::string(field) + " is " + value->dump() + "; a number is needed");
    return otherwise;
  }
  return value->get<double>();
}

bool ConfigReader::Bool(const char* field, bool otherwise) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) {
    Fail(std::string(field) + " is " + value->dump() + "; true or false is needed");
    return otherwise;
  }
  return value->get<bool>();
}

std::string ConfigReader::String(const char* field, const std::string& otherwise) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) {
    Fail(std::string(field) + " is " + value->dump() + "; a string is needed");
    return otherwise;
  }
  return value->get<std::string>();
}

nlohmann::json ConfigReader::Object(const char* field) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return nlohmann::json::object();
  if (!value->is_object()) {
    Fail(std::string(field) + " is " + value->dump() + "; an object is needed");
    return nlohmann::json::object();
  }
  return *value;
}

void ConfigReader::RequireBool(const char* field, bool only, const char* why) {
  if (Bool(field, only) != only) Fail(std::string(field) + " is " + (only ? "false" : "true") + "; not supported: " + why);
}

void ConfigReader::RequireInt(const char* field, int64_t only, const char* why) {
  if (const int64_t found = Int(field, only); found != only)
    Fail(std::string(field) + " is " + std::to_string(found) + "; only " + std::to_string(only) + " is supported: " + why);
}

void ConfigReader::RequireAbsent(std::initializer_list<const char*> fields) {
  for (const char* field : fields)
    if (Given(field) && *Find(field) != false) Fail(std::string(field) + " changes the mathematics of the model and is not supported");
}

}  // namespace fluoroscope::model
