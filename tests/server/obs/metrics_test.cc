#include "obs/metrics.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "obs/version.h"

namespace fluoroscope::obs {
namespace {

using testing::HasSubstr;

void ReportEverything(Metrics& metrics) {
  metrics.RpcStarted("Inference.Forward");
  metrics.RpcFinished("Inference.Forward", "OK", 0.25, 4096);
  metrics.RpcStarted("Inference.Forward");
  metrics.SetQueueDepth(3);
  metrics.ObserveQueueWait(0.5);
  metrics.AddExecutorBusy(1.5);
  metrics.SetAdmittedBytes(1000);
  metrics.SetBudgetBytes(2000);
  metrics.CountRejection(Rejection::kQueueFull);
  metrics.ObserveBatch("tiny", 3, 8, 1024);
  metrics.AddCapturedBytes(77);
  metrics.SetModelLoaded("tiny", "abc123", 5000, 0.75);
  metrics.SetIdentityError("tiny", "resid", 1e-7);
  metrics.SetDeviceMemory("cpu", 10, 20);
  metrics.SetHandles(2, 30);
  metrics.CountExpiredHandles(4);
}

TEST(MetricsTest, EveryMethodShowsItsValue) {
  Metrics metrics;
  ReportEverything(metrics);
  const std::string text = metrics.Serialize();
  for (const std::string line : {
           "fluoroscope_rpcs_started_total{method=\"Inference.Forward\"} 2",
           "fluoroscope_rpcs_total{code=\"OK\",method=\"Inference.Forward\"} 1",
           "fluoroscope_rpcs_in_flight{method=\"Inference.Forward\"} 1",
           "fluoroscope_rpc_duration_seconds_sum{method=\"Inference.Forward\"} 0.25",
           "fluoroscope_rpc_reply_bytes_total{method=\"Inference.Forward\"} 4096",
           "fluoroscope_queue_depth 3",
           "fluoroscope_queue_wait_seconds_sum 0.5",
           "fluoroscope_executor_busy_seconds_total 1.5",
           "fluoroscope_admitted_bytes 1000",
           "fluoroscope_budget_bytes 2000",
           "fluoroscope_rejections_total{reason=\"queue_full\"} 1",
           "fluoroscope_rejections_total{reason=\"out_of_memory\"} 0",
           "fluoroscope_batch_rows_sum{model=\"tiny\"} 8",
           "fluoroscope_batch_tokens_sum{model=\"tiny\"} 1024",
           "fluoroscope_forward_tokens_total{model=\"tiny\"} 1024",
           "fluoroscope_captured_bytes_total 77",
           "fluoroscope_model_info{model=\"tiny\",weights_sha256=\"abc123\"} 1",
           "fluoroscope_model_weight_bytes{model=\"tiny\"} 5000",
           "fluoroscope_model_load_seconds{model=\"tiny\"} 0.75",
           "fluoroscope_identity_relative_error{identity=\"resid\",model=\"tiny\"} 1e-07",
           "fluoroscope_device_allocated_bytes{device=\"cpu\"} 10",
           "fluoroscope_device_peak_bytes{device=\"cpu\"} 20",
           "fluoroscope_handles 2",
           "fluoroscope_handle_bytes 30",
           "fluoroscope_handles_expired_total 4",
       }) {
    EXPECT_THAT(text, HasSubstr(line + "\n"));
  }
  EXPECT_THAT(text, HasSubstr("version=\"" + std::string(Version()) + "\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("process_resident_memory_bytes "));
}

TEST(MetricsTest, PromtoolFindsNothingToComplainAbout) {
  if (std::system("command -v promtool >/dev/null") != 0) GTEST_SKIP() << "promtool (Debian package prometheus) is not installed";
  Metrics metrics;
  ReportEverything(metrics);
  FILE* promtool = popen("promtool check metrics", "w");
  ASSERT_NE(promtool, nullptr);
  const std::string text = metrics.Serialize();
  ASSERT_EQ(fwrite(text.data(), 1, text.size(), promtool), text.size());
  EXPECT_EQ(pclose(promtool), 0);
}

TEST(MetricsTest, ManyThreadsLoseNothing) {
  Metrics metrics;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&metrics] {
      for (int i = 0; i < 1000; ++i) metrics.ObserveBatch("m", 1, 1, 2);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(metrics.Serialize(), HasSubstr("fluoroscope_forward_tokens_total{model=\"m\"} 8000\n"));
}

}  // namespace
}  // namespace fluoroscope::obs
