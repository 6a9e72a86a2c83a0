#include "obs/logging.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "spdlog/async.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace fluoroscope::obs {

absl::Status SetUpLogging(const std::string& level) {
  spdlog::level::level_enum value;
  if (level == "debug") {
    value = spdlog::level::debug;
  } else if (level == "info") {
    value = spdlog::level::info;
  } else if (level == "warn") {
    value = spdlog::level::warn;
  } else if (level == "error") {
    value = spdlog::level::err;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("log_level is \"", level, "\"; it must be debug, info, warn or error"));
  }
  constexpr size_t kQueuedLines = 8192;
  spdlog::init_thread_pool(kQueuedLines, 1);
  auto logger = std::make_shared<spdlog::async_logger>("fluoroscope", std::make_shared<spdlog::sinks::stderr_sink_mt>(),
                                                       spdlog::thread_pool(), spdlog::async_overflow_policy::overrun_oldest);
  logger->set_level(value);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

void ShutDownLogging() { spdlog::shutdown(); }

void LogRpc(const RpcRecord& record) {
  spdlog::info("rpc id={} method={} code={} queue_ms={:.2f} run_ms={:.2f} total_ms={:.2f} bytes={}", record.id, record.method, record.code,
               record.queue_ms, record.run_ms, record.total_ms, record.bytes);
}

}  // namespace fluoroscope::obs
