// The process_* metrics that every Prometheus client exports, read from /proc at the moment of asking.
#pragma once

#include <string>
#include <vector>

#include "prometheus/metric_family.h"

namespace fluoroscope::obs {

// CPU seconds, resident and virtual memory, file descriptors and start time of this process. What cannot be read is left out.
// `proc` is the mount point of the proc file system; tests give another.
std::vector<prometheus::MetricFamily> ProcessMetrics(const std::string& proc = "/proc");

}  // namespace fluoroscope::obs
