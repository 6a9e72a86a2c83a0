#include "client/cli/sweep_output.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/cli/output.h"
#include "client/cli/reply_json.h"

namespace fluoroscope::cli {
namespace {

// Of these sites the last axis is the position that is attended to.
bool HasSources(const v1::SweepRequest& request) {
  return std::all_of(request.sites().begin(), request.sites().end(),
                     [](const std::string& site) { return site == "attn.hook_pattern" || site == "attn.hook_attn_scores"; });
}

std::string AxisName(const GridText& text, v1::SweepAxis axis) {
  switch (axis) {
    case v1::SWEEP_AXIS_SITE:
      return "site";
    case v1::SWEEP_AXIS_LAYER:
      return "layer";
    case v1::SWEEP_AXIS_POSITION:
      return "position";
    case v1::SWEEP_AXIS_HEAD:
      return "head";
    case v1::SWEEP_AXIS_UNIT:
      return text.sources ? "source" : "unit";
    case v1::SWEEP_AXIS_SECOND_LAYER:
      return "second_layer";
    case v1::SWEEP_AXIS_SECOND_HEAD:
      return "second_head";
    case v1::SWEEP_AXIS_RECEIVER:
      return "receiver";
    case v1::SWEEP_AXIS_SENDER:
      return "sender";
    default:
      return "axis";
  }
}

struct Axis {
  std::string name;
  std::vector<std::string> labels;
};

std::vector<Axis> AxesOf(const GridText& text, const client::SweepResult& result) {
  std::vector<Axis> axes;
  for (const v1::SweepAxisInfo& info : result.header.axes())
    axes.push_back({AxisName(text, info.axis()), {info.labels().begin(), info.labels().end()}});
  return axes;
}

// Heads by layers, where the second axis is a grid of senders: "0.0", "0.1", … Receivers by 270 senders are no picture.
std::vector<Axis> AxesToDraw(std::vector<Axis> axes) {
  if (axes.size() != 2 || axes[1].name != "sender") return axes;
  Axis layers{"layer", {}}, heads{"head", {}};
  const auto add = [](Axis& axis, const std::string& label) {
    if (std::find(axis.labels.begin(), axis.labels.end(), label) == axis.labels.end()) axis.labels.push_back(label);
  };
  for (const std::string& label : axes[1].labels) {
    const size_t dot = label.find('.');
    if (dot == std::string::npos) return axes;
    add(layers, label.substr(0, dot));
    add(heads, label.substr(dot + 1));
  }
  std::vector<std::string> grid;
  for (const std::string& layer : layers.labels)
    for (const std::string& head : heads.labels) grid.push_back(absl::StrCat(layer, ".", head));
  if (layers.labels.size() < 2 || grid != axes[1].labels) return axes;
  return {axes[0], layers, heads};
}

// The labels where programs read them: "9.1" and "9.10", heads of path patching, are one number to them. "L9H1", as logit_attrs calls it.
std::vector<Axis> AxesForPrograms(const GridText& text, const client::SweepResult& result) {
  std::vector<Axis> axes = AxesOf(text, result);
  for (Axis& axis : axes)
    for (std::string& label : axis.labels) {
      const size_t dot = label.find('.'), digits = label.find_first_not_of("0123456789");
      if (dot == 0 || dot == std::string::npos || digits != dot || dot + 1 == label.size()) continue;
      if (label.find_first_not_of("0123456789", dot + 1) == std::string::npos)
        label = absl::StrCat("L", label.substr(0, dot), "H", label.substr(dot + 1));
    }
  return axes;
}

// As they are read: "9 John".
std::vector<std::string> ShownLabels(const Axis& axis) {
  if (axis.name != "position" && axis.name != "source") return axis.labels;
  std::vector<std::string> shown;
  for (const std::string& label : axis.labels) shown.push_back(PositionLabel(label));
  return shown;
}

std::string What(const v1::SweepRequest& request) {
  const bool noise = request.direction() == v1::SWEEP_DIRECTION_NOISE;
  std::string sites;
  for (const std::string& site : request.sites()) sites += (sites.empty() ? "" : ", ") + site;
  const char* run = noise ? "clean" : "corrupt";
  switch (request.kind()) {
    case v1::SWEEP_KIND_ZERO:
      return fmt::format("{}: zeros into the {} run", sites, run);
    case v1::SWEEP_KIND_MEAN:
      return fmt::format("{}: means into the {} run", sites, run);
    case v1::SWEEP_KIND_RESAMPLE:
      return fmt::format("{}: resampled values into the {} run", sites, run);
    default:
      return fmt::format("{}: {} values into the {} run", sites,
                         request.pairs(0).source_handles_size() > 0 ? "the handles'"
                         : noise                                    ? "corrupt"
                                                                    : "clean",
                         run);
  }
}

// Values and the scale of their colours.
HeatMap Scaled(const client::SweepResult& result, bool raw, bool* is_normalized) {
  HeatMap map;
  auto normalized = result.Normalized();
  *is_normalized = normalized.ok() && !raw;
  map.values = *is_normalized ? *std::move(normalized) : result.MeanValues();
  map.centre = *is_normalized ? 0 : result.MeanBase();
  double reach = *is_normalized ? 1 : 0;
  for (double value : map.values)
    if (std::isfinite(value)) reach = std::max(reach, std::abs(value - map.centre));
  map.reach = reach > 0 ? reach : 1;
  return map;
}

std::string Labels(const std::vector<Axis>& axes, size_t count, size_t place) {
  std::string text;
  for (size_t i = count; i-- > 0;) {
    const size_t size = axes[i].labels.size();
    text.insert(0, absl::StrCat(axes[i].name, " ", ShownLabels(axes[i])[place % size], text.empty() ? "" : ", "));
    place /= size;
  }
  return text;
}

nlohmann::ordered_json Number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

// Nested arrays with the axes' shape.
nlohmann::ordered_json Nested(const std::vector<Axis>& axes, const std::vector<double>& values, size_t axis, size_t& at) {
  if (axis == axes.size()) return Number(values[at++]);
  auto list = nlohmann::ordered_json::array();
  for (size_t i = 0; i < axes[axis].labels.size(); ++i) list.push_back(Nested(axes, values, axis + 1, at));
  return list;
}

// How the work done compares with what follows: "12 times less work than".
std::string Saved(const v1::SweepEstimate& estimate) {
  const double times = estimate.flops() > 0 ? estimate.forwards_flops() / estimate.flops() : 0;
  if (times >= 0.95 && times < 1.05) return "as much work as";
  return fmt::format("{:.{}f} times less work than", times, times < 9.95 ? 1 : 0);
}

}  // namespace

GridText TextOf(const v1::SweepRequest& request) {
  return {What(request), request.direction() == v1::SWEEP_DIRECTION_NOISE, HasSources(request)};
}

GridText TextOf(const v1::PathPatchRequest& request) {
  const bool noise = request.direction() != v1::SWEEP_DIRECTION_DENOISE;  // absent: noise
  return {
      fmt::format("paths: senders say in the {} run what they say in the {} one", noise ? "clean" : "corrupt", noise ? "corrupt" : "clean"),
      noise, false};
}

void PrintGrid(const GridText& text, const client::SweepResult& result, const GridFormat& format) {
  for (const std::string& warning : result.summary.warnings()) fmt::print(stderr, "warning: {}\n", warning);
  if (format.json) {
    PrintJson(SweepToJson(text, result));
  } else if (format.csv) {
    fmt::print("{}", SweepToCsv(text, result));
  } else {
    PrintHeatMaps(text, result, format.raw);
  }
}

void PrintHeatMaps(const GridText& text, const client::SweepResult& result, bool raw) {
  const Palette palette = PaletteOf(stdout);
  const bool colour = palette != Palette::kNone;
  const std::vector<Axis> axes = AxesToDraw(AxesOf(text, result));
  bool normalized = false;
  const HeatMap whole = Scaled(result, raw, &normalized);
  const bool noise = text.noise;
  fmt::print("{}\n", Bold(text.what, colour));
  const double source = result.MeanSource();  // not a number where handles stand for the source run
  fmt::print("{} is {:.3f} in the {} run{}.\n{}\n", result.header.metrics(0), result.MeanBase(), noise ? "clean" : "corrupt",
             std::isnan(source) ? "" : fmt::format(" and {:.3f} in the {} one", source, noise ? "corrupt" : "clean"),
             normalized ? fmt::format("Shown: 0 is the {} run, 1 the {} run.", noise ? "clean" : "corrupt", noise ? "corrupt" : "clean")
                        : "Shown: its value in each cell.");
  const size_t inner = std::min<size_t>(axes.size(), 2), outer = axes.size() - inner;
  const size_t rows = axes[outer].labels.size(), columns = inner == 2 ? axes[outer + 1].labels.size() : 1;
  for (size_t place = 0; place < result.cells / (rows * columns); ++place) {
    HeatMap map = whole;
    const auto begin = whole.values.begin() + static_cast<std::ptrdiff_t>(place * rows * columns);
    map.values.assign(begin, begin + static_cast<std::ptrdiff_t>(rows * columns));
    map.row_title = axes[outer].name;
    map.rows = ShownLabels(axes[outer]);
    map.column_title = inner == 2 ? axes[outer + 1].name : "";
    map.columns = inner == 2 ? ShownLabels(axes[outer + 1]) : std::vector<std::string>{result.header.metrics(0)};
    if (map.row_title == "layer") TurnRows(map);
    fmt::print("\n");
    if (outer > 0) fmt::print("{}\n", Bold(Labels(axes, outer, place), colour));
    fmt::print("{}", colour ? Draw(map, palette, WidthOf(stdout)) : DrawPlain(map));
  }
  if (colour) fmt::print("\n{}\n", Legend(whole, palette));
  const v1::SweepEstimate& estimate = result.header.estimate();
  const v1::Provenance& provenance = result.header.provenance();
  fmt::print("{}{}\n", colour ? "" : "\n",
             Dim(fmt::format("{} in {:.2f} s, {} a forward pass per cell; {} {} on {}", Counted(estimate.cells(), "cell"),
                             result.summary.run_ms() / 1000, Saved(estimate), provenance.model(), provenance.dtype(), provenance.device()),
                 colour));
  if (const v1::PrecisionCheck& check = result.precision; check.cells_size() > 0)
    fmt::print("{}\n", Dim(fmt::format("{} run again in float32: off by at most {:.2g}, where changes are up to {:.2g}",
                                       Counted(static_cast<uint64_t>(check.cells_size()), "cell"), check.largest_difference(0),
                                       check.largest_change(0)),
                           colour));
}

nlohmann::ordered_json SweepToJson(const GridText& text, const client::SweepResult& result) {
  const std::vector<Axis> axes = AxesForPrograms(text, result);
  auto shape = nlohmann::ordered_json::array();
  for (const Axis& axis : axes) shape.push_back({{"name", axis.name}, {"labels", axis.labels}});
  size_t at = 0;
  nlohmann::ordered_json values = Nested(axes, result.MeanValues(), 0, at), normalized = nullptr;
  if (auto numbers = result.Normalized(); numbers.ok()) normalized = Nested(axes, *numbers, 0, at = 0);
  const v1::SweepEstimate& e = result.header.estimate();
  nlohmann::ordered_json precision = nullptr;
  if (const v1::PrecisionCheck& check = result.precision; check.cells_size() > 0)
    precision = {{"cells", check.cells_size()},
                 {"largest_difference", check.largest_difference(0)},
                 {"largest_change", check.largest_change(0)},
                 {"run_ms", check.run_ms()}};
  return {{"sweep", text.what},
          {"clean", TokensToJson(result.header.clean(0))},
          {"corrupt", TokensToJson(result.header.corrupt(0))},
          {"metric", result.header.metrics(0)},
          {"base", Number(result.MeanBase())},
          {"source", Number(result.MeanSource())},
          {"axes", shape},
          {"values", values},
          {"normalized", normalized},
          {"warnings", std::vector<std::string>(result.summary.warnings().begin(), result.summary.warnings().end())},
          {"cells", e.cells()},
          {"filled_cells", e.filled_cells()},
          {"flops", e.flops()},
          {"forwards_flops", e.forwards_flops()},
          {"precision", precision},
          {"queue_ms", result.summary.queue_ms()},
          {"run_ms", result.summary.run_ms()},
          {"provenance", ToJson(result.header.provenance())}};
}

std::string SweepToCsv(const GridText& grid, const client::SweepResult& result) {
  const std::vector<Axis> axes = AxesForPrograms(grid, result);
  const std::vector<double> values = result.MeanValues();
  const auto normalized = result.Normalized();
  std::string text;
  for (const Axis& axis : axes) text += axis.name + ",";
  text += CsvField(result.header.metrics(0)) + ",normalized\n";
  for (size_t cell = 0; cell < result.cells; ++cell) {
    std::string line;
    size_t place = cell;
    for (size_t i = axes.size(); i-- > 0;) {
      line.insert(0, absl::StrCat(CsvField(axes[i].labels[place % axes[i].labels.size()]), ","));
      place /= axes[i].labels.size();
    }
    text += line + fmt::format("{}", values[cell]) + "," + (normalized.ok() ? fmt::format("{}", (*normalized)[cell]) : "") + "\n";
  }
  return text;
}

}  // namespace fluoroscope::cli
