// Requests and replies of the Jobs service.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fluoroscope/v1/jobs.pb.h"
#include "jobs/job.h"

namespace fluoroscope::rpc {

// Strict checks included; what is inside the request is looked at when it is planned.
struct SubmittedJob {
  std::string kind, request;
};
absl::StatusOr<SubmittedJob> DecodeSubmitJob(const fluoroscope::v1::SubmitJobRequest& request);

absl::Status DecodeListJobs(const fluoroscope::v1::ListJobsRequest& request);

// Of Get, Watch, Cancel and Delete.
absl::StatusOr<jobs::JobId> DecodeJobId(const google::protobuf::Message& request, const std::string& id);

fluoroscope::v1::Job EncodeJob(const jobs::JobInfo& job);
fluoroscope::v1::GetJobReply EncodeJobAndRequest(const jobs::JobInfo& job);
fluoroscope::v1::ListJobsReply EncodeJobList(const std::vector<jobs::JobInfo>& jobs);

}  // namespace fluoroscope::rpc
