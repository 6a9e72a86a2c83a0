#include "obs/process_metrics.h"

#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <vector>

#include "gtest/gtest.h"

namespace fluoroscope::obs {
namespace {

std::map<std::string, double> Values(const std::vector<prometheus::MetricFamily>& families) {
  std::map<std::string, double> values;
  for (const auto& family : families) {
    const auto& metric = family.metric.at(0);
    values[family.name] = family.type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value;
  }
  return values;
}

TEST(ProcessMetricsTest, DescribesThisProcess) {
  const auto values = Values(ProcessMetrics());
  EXPECT_EQ(values.size(), 7u);
  EXPECT_GT(values.at("process_resident_memory_bytes"), 1e6);
  EXPECT_GT(values.at("process_virtual_memory_bytes"), values.at("process_resident_memory_bytes"));
  EXPECT_GE(values.at("process_open_fds"), 3);
  EXPECT_GE(values.at("process_max_fds"), values.at("process_open_fds"));
  const double now = static_cast<double>(std::time(nullptr));
  EXPECT_NEAR(values.at("process_start_time_seconds"), now, 300);
}

TEST(ProcessMetricsTest, TheHeapIsWhatWasNotFreed) {
  const auto heap = [] { return Values(ProcessMetrics()).at("process_heap_bytes"); };
  if (heap() < 1000) GTEST_SKIP() << "a sanitizer's allocator is not glibc's";
  constexpr size_t kSmall = 100, kMany = 10'000, kLarge = size_t{64} << 20;  // the large one is a mapping of its own
  const double before = heap();
  auto small = std::vector<std::unique_ptr<char[]>>(kMany);
  for (auto& block : small) block = std::make_unique<char[]>(kSmall);
  auto large = std::make_unique<char[]>(kLarge);
  const double held = heap() - before;
  EXPECT_GE(held, kMany * kSmall + kLarge);
  EXPECT_LE(held, 1.5 * kMany * kSmall + kLarge);
  small.clear();
  large.reset();
  EXPECT_NEAR(heap(), before, 100'000);
}

TEST(ProcessMetricsTest, AProcessNameWithBracketsAndSpacesIsNoTrap) {
  const std::filesystem::path proc = std::filesystem::temp_directory_path() / ("fs_proc_" + std::to_string(getpid()));
  std::filesystem::create_directories(proc / "self");
  std::ofstream(proc / "self/stat") << "7 (a ) b) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 9 0 1000 8192000 321 0\n";
  std::ofstream(proc / "stat") << "cpu 1 2 3\nbtime 1700000000\n";
  const auto values = Values(ProcessMetrics(proc.string()));
  std::filesystem::remove_all(proc);
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  EXPECT_DOUBLE_EQ(values.at("process_cpu_seconds_total"), 300 / ticks);
  EXPECT_DOUBLE_EQ(values.at("process_virtual_memory_bytes"), 8192000);
  EXPECT_DOUBLE_EQ(values.at("process_resident_memory_bytes"), 321.0 * static_cast<double>(sysconf(_SC_PAGESIZE)));
  EXPECT_DOUBLE_EQ(values.at("process_start_time_seconds"), 1700000000 + 1000 / ticks);
}

TEST(ProcessMetricsTest, WhatCannotBeReadIsLeftOut) {
  EXPECT_EQ(Values(ProcessMetrics("/nonexistent")).size(), 2u);
}  // the limit of open files, the heap

}  // namespace
}  // namespace fluoroscope::obs
