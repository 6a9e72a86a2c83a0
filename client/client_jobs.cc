#include "client/client.h"
#include "client/status.h"
#include "client/sweep_call.h"

namespace fluoroscope::client {

absl::StatusOr<v1::Job> Client::SubmitJob(const v1::SubmitJobRequest& request) const {
  v1::Job reply;
  const grpc::Status status = jobs_->Submit(NewContext().get(), request, &reply);
  if (!status.ok()) return ToAbsl(status);
  return reply;
}

absl::StatusOr<v1::GetJobReply> Client::GetJob(const std::string& id) const {
  v1::GetJobRequest request;
  request.set_id(id);
  v1::GetJobReply reply;
  const grpc::Status status = jobs_->Get(NewContext().get(), request, &reply);
  if (!status.ok()) return ToAbsl(status);
  return reply;
}

absl::StatusOr<std::vector<v1::Job>> Client::ListJobs() const {
  v1::ListJobsReply reply;
  const grpc::Status status = jobs_->List(NewContext().get(), v1::ListJobsRequest(), &reply);
  if (!status.ok()) return ToAbsl(status);
  return std::vector<v1::Job>(reply.jobs().begin(), reply.jobs().end());
}

absl::StatusOr<SweepResult> Client::WatchJob(const std::string& id, const SweepProgress& progress) const {
  v1::WatchJobRequest request;
  request.set_id(id);
  const auto context = NewContext();
  return ReadSweep(*jobs_->Watch(context.get(), request), *context, progress);
}

absl::StatusOr<v1::Job> Client::CancelJob(const std::string& id) const {
  v1::CancelJobRequest request;
  request.set_id(id);
  v1::Job reply;
  const grpc::Status status = jobs_->Cancel(NewContext().get(), request, &reply);
  if (!status.ok()) return ToAbsl(status);
  return reply;
}

absl::Status Client::DeleteJob(const std::string& id) const {
  v1::DeleteJobRequest request;
  request.set_id(id);
  v1::DeleteJobReply reply;
  const grpc::Status status = jobs_->Delete(NewContext().get(), request, &reply);
  return status.ok() ? absl::OkStatus() : ToAbsl(status);
}

}  // namespace fluoroscope::client
