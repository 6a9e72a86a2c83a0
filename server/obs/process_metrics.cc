#include "obs/process_metrics.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>

namespace fluoroscope::obs {
namespace {

prometheus::MetricFamily OneValue(const char* name, const char* help, prometheus::MetricType type, double value) {
  prometheus::ClientMetric metric;
  (type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return {name, help, type, {metric}};
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// Seconds since the epoch at which the machine started; 0 when unknown.
double BootTime(const std::string& proc) {
  std::istringstream in(ReadAll(proc + "/stat"));
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("btime ", 0) == 0) return std::strtod(line.c_str() + 6, nullptr);
  }
  return 0;
}

// The numbers of /proc/self/stat after the process name, which may itself hold spaces and brackets. [0] is field 3 of proc(5).
std::vector<std::string> StatFields(const std::string& proc) {
  const std::string text = ReadAll(proc + "/self/stat");
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream in(text.substr(name_end + 1));
  return {std::istream_iterator<std::string>(in), std::istream_iterator<std::string>()};
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics(const std::string& proc) {
  using prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;

  const std::vector<std::string> fields = StatFields(proc);
  const auto field = [&](int number) { return std::strtod(fields[number - 3].c_str(), nullptr); };  // numbered as in proc(5)
  if (fields.size() >= 22) {
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    families.push_back(OneValue("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", MetricType::Counter,
                                (field(14) + field(15)) / ticks));
    families.push_back(OneValue("process_virtual_memory_bytes", "Virtual memory size in bytes.", MetricType::Gauge, field(23)));
    families.push_back(OneValue("process_resident_memory_bytes", "Resident memory size in bytes.", MetricType::Gauge,
                                field(24) * static_cast<double>(sysconf(_SC_PAGESIZE))));
    if (const double boot = BootTime(proc); boot > 0) {
      families.push_back(OneValue("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", MetricType::Gauge,
                                  boot + field(22) / ticks));
    }
  }
  // What the resident memory cannot tell apart: bytes that are held, and freed ones that the allocator has not given back.
  const struct mallinfo2 heap = mallinfo2();
  families.push_back(OneValue("process_heap_bytes", "Bytes allocated with malloc and not freed.", MetricType::Gauge,
                              static_cast<double>(heap.uordblks + heap.hblkhd)));

  std::error_code error;
  const std::filesystem::directory_iterator open_fds(proc + "/self/fd", error);
  if (!error) {
    families.push_back(OneValue("process_open_fds", "Number of open file descriptors.", MetricType::Gauge,
                                static_cast<double>(std::distance(begin(open_fds), end(open_fds)))));
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    families.push_back(
        OneValue("process_max_fds", "Maximum number of open file descriptors.", MetricType::Gauge, static_cast<double>(limit.rlim_cur)));
  }
  return families;
}

}  // namespace fluoroscope::obs
