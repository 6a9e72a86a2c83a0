// Requests and replies of the Handles service.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "api/handles.h"
#include "fluoroscope/v1/handles.pb.h"
#include "rpc/codec_plan.h"

namespace fluoroscope::rpc {

// Present and short. Whether it is one, and there, is engine/'s to say.
absl::StatusOr<std::string> DecodeHandleId(const std::string& id, const FieldPath& path);

struct Lease {
  std::string id;
  uint32_t ttl_seconds = 0;
};

// Strict checks included. A PutRequest's checks are of its own part; which part comes when is the stream's to check.
absl::Status CheckPut(const fluoroscope::v1::PutRequest& request);
absl::StatusOr<api::PutHeader> DecodePutHeader(const fluoroscope::v1::PutHeader& header);
absl::StatusOr<api::HandleSlice> DecodeGetHandle(const fluoroscope::v1::GetHandleRequest& request);
absl::StatusOr<std::string> DecodeListHandles(const fluoroscope::v1::ListHandlesRequest& request);
absl::StatusOr<Lease> DecodeRenewHandle(const fluoroscope::v1::RenewHandleRequest& request);
absl::StatusOr<std::string> DecodeDeleteHandle(const fluoroscope::v1::DeleteHandleRequest& request);

void EncodeHandle(const api::Handle& handle, fluoroscope::v1::Handle* out);
fluoroscope::v1::ListHandlesReply EncodeHandlePage(const api::HandlePage& page);

}  // namespace fluoroscope::rpc
