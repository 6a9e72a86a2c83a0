#include "client/client.h"
#include "client/sweep_call.h"
#include "client/unary_call.h"

namespace fluoroscope::client {

absl::StatusOr<v1::Job> Client::SubmitJob(const v1::SubmitJobRequest& request) const {
  return CallUnary(*jobs_, &v1::Jobs::Stub::Submit, *NewContext(), request);
}

absl::StatusOr<v1::GetJobReply> Client::GetJob(const std::string& id) const {
  v1::GetJobRequest request;
  request.set_id(id);
  return CallUnary(*jobs_, &v1::Jobs::Stub::Get, *NewContext(), request);
}

absl::StatusOr<std::vector<v1::Job>> Client::ListJobs() const {
  const auto reply = CallUnary(*jobs_, &v1::Jobs::Stub::List, *NewContext(), v1::ListJobsRequest());
  if (!reply.ok()) return reply.status();
  return std::vector<v1::Job>(reply->jobs().begin(), reply->jobs().end());
}

absl::StatusOr<SweepResult> Client::WatchJob(const std::string& id, const SweepProgress& progress) const {
  v1::WatchJobRequest request;
  request.set_id(id);
  const auto context = NewContext();
  return ReadSweep(*jobs_->Watch(context.get(), request), *context, request.ByteSizeLong(), progress);
}

absl::StatusOr<v1::Job> Client::CancelJob(const std::string& id) const {
  v1::CancelJobRequest request;
  request.set_id(id);
  return CallUnary(*jobs_, &v1::Jobs::Stub::Cancel, *NewContext(), request);
}

absl::Status Client::DeleteJob(const std::string& id) const {
  v1::DeleteJobRequest request;
  request.set_id(id);
  return CallUnary(*jobs_, &v1::Jobs::Stub::Delete, *NewContext(), request).status();
}

}  // namespace fluoroscope::client
