// A grid's result for people, for programs and for tables.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/cli/heat_map.h"
#include "client/sweep_result.h"
#include "fluoroscope/v1/path.pb.h"

namespace fluoroscope::cli {

// What a reply does not say about its grid.
struct GridText {
  std::string what;      // a title
  bool noise = false;    // the clean prompt is run, values come from the corrupt one
  bool sources = false;  // the last axis of its sites is the position that is attended to
};
GridText TextOf(const v1::SweepRequest& request);
GridText TextOf(const v1::PathPatchRequest& request);

struct GridFormat {
  bool json = false, csv = false;  // else heat maps
  bool raw = false;                // heat maps of the metric itself, also where it can be normalised
};
// Prints the result on stdout and its warnings on stderr.
void PrintGrid(const GridText& text, const client::SweepResult& result, const GridFormat& format);

// One heat map over the last two axes for each place on the axes before them; a single axis is one column. Normalised where that is
// defined, unless `raw`.
void PrintHeatMaps(const GridText& text, const client::SweepResult& result, bool raw);

nlohmann::ordered_json SweepToJson(const GridText& text, const client::SweepResult& result);

// One line per cell: its labels, the metric's value, and the normalised value where that is defined.
std::string SweepToCsv(const GridText& text, const client::SweepResult& result);

}  // namespace fluoroscope::cli
