// What a metric says now, read as Prometheus would.
#pragma once

#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "obs/metrics.h"

namespace fluoroscope::sched {

// `series` with its labels: "fluoroscope_rejections_total{reason=\"draining\"}".
inline double MetricValue(const obs::Metrics& metrics, const std::string& series) {
  std::istringstream text(metrics.Serialize());
  for (std::string line; std::getline(text, line);) {
    if (line.rfind(series + " ", 0) == 0) return std::stod(line.substr(series.size() + 1));
  }
  ADD_FAILURE() << "no series " << series;
  return -1;
}

inline double Rejections(const obs::Metrics& metrics, const std::string& reason) {
  return MetricValue(metrics, "fluoroscope_rejections_total{reason=\"" + reason + "\"}");
}

}  // namespace fluoroscope::sched
