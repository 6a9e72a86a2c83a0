#include "tensor/runtime_errors.h"

#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "c10/util/Exception.h"

namespace fluoroscope::tensor {
namespace {

// LibTorch appends a backtrace after the first line, and to some messages where in its sources they were raised.
std::string FirstLine(std::string_view message) {
  message = message.substr(0, message.find('\n'));
  for (const std::string_view mark : {" (Triggered internally at", "Exception raised from"}) {
    message = message.substr(0, message.find(mark));
  }
  constexpr std::string_view kAssert = "INTERNAL ASSERT FAILED at \"";
  if (const size_t at = message.find(kAssert); at != std::string_view::npos) {
    // `... ASSERT FAILED at "/some/path.cpp":12, please report a bug to PyTorch. What happened`
    const size_t end = message.find("please report a bug to PyTorch.", at);
    const std::string_view rest =
        end == std::string_view::npos ? "" : message.substr(end + std::string_view("please report a bug to PyTorch.").size());
    return std::string(message.substr(0, at)) + "INTERNAL ASSERT FAILED." + std::string(rest);
  }
  return std::string(message.substr(0, message.find_last_not_of(" \t\r") + 1));
}

}  // namespace

absl::Status StatusOfCurrentException() noexcept {
  try {
    try {
      throw;
    } catch (const c10::OutOfMemoryError& error) {
      return absl::ResourceExhaustedError(FirstLine(error.what_without_backtrace()));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("out of memory");
    } catch (const c10::Error& error) {
      return absl::InternalError(FirstLine(error.what_without_backtrace()));
    } catch (const std::exception& error) {
      return absl::InternalError(FirstLine(error.what()));
    } catch (...) {
      return absl::InternalError("an unknown exception");
    }
  } catch (...) {  // there was no memory for the message
    return absl::Status(absl::StatusCode::kResourceExhausted, "");
  }
}

}  // namespace fluoroscope::tensor
