// Parts of replies as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "fluoroscope/v1/inference.pb.h"
#include "fluoroscope/v1/provenance.pb.h"

namespace fluoroscope::cli {

nlohmann::ordered_json ToJson(const v1::Provenance& provenance);
// [{"id": 504, "token": "The"}, …]
nlohmann::ordered_json TokensToJson(const v1::RowInfo& row);

}  // namespace fluoroscope::cli
