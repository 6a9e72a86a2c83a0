// A sweep's result for people, for programs and for tables.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/cli/heat_map.h"
#include "client/sweep_result.h"

namespace fluoroscope::cli {

// One heat map over the last two axes for each place on the axes before them; a single axis is one column. Normalised where that is
// defined, unless `raw`.
void PrintHeatMaps(const v1::SweepRequest& request, const client::SweepResult& result, bool raw);

nlohmann::ordered_json SweepToJson(const v1::SweepRequest& request, const client::SweepResult& result);

// One line per cell: its labels, the metric's value, and the normalised value where that is defined.
std::string SweepToCsv(const v1::SweepRequest& request, const client::SweepResult& result);

}  // namespace fluoroscope::cli
