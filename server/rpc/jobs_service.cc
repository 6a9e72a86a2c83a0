#include "rpc/jobs_service.h"

#include <memory>
#include <utility>

#include "base/status_macros.h"
#include "jobs/jobs.h"
#include "rpc/codec_jobs.h"
#include "rpc/job_stream.h"
#include "rpc/stream.h"
#include "rpc/unary.h"

namespace fluoroscope::rpc {

namespace pb = ::fluoroscope::v1;
using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

ServerUnaryReactor* JobsService::Submit(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::SubmitJobRequest, pb::Job>(
      state_, *context, "Jobs.Submit", *in, out,
      [](const pb::SubmitJobRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(SubmittedJob job, DecodeSubmitJob(message));
        engine.jobs().Submit(std::move(job.kind), std::move(job.request), call,
                             Encoded<pb::Job, jobs::JobInfo>(std::move(done), EncodeJob));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* JobsService::Get(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::GetJobRequest, pb::GetJobReply>(
      state_, *context, "Jobs.Get", *in, out,
      [](const pb::GetJobRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const jobs::JobId id, DecodeJobId(message, message.id()));
        engine.jobs().Get(id, call.principal, Encoded<pb::GetJobReply, jobs::JobInfo>(std::move(done), EncodeJobAndRequest));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* JobsService::List(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::ListJobsRequest, pb::ListJobsReply>(
      state_, *context, "Jobs.List", *in, out,
      [](const pb::ListJobsRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_RETURN_IF_ERROR(DecodeListJobs(message));
        engine.jobs().List(call.principal, Encoded<pb::ListJobsReply, std::vector<jobs::JobInfo>>(std::move(done), EncodeJobList));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<ByteBuffer>* JobsService::Watch(CallbackServerContext* context, const ByteBuffer* in) {
  return ServeStream<pb::WatchJobRequest>(
      state_, *context, "Jobs.Watch", *in,
      [this](const pb::WatchJobRequest& message, engine::Engine& engine, const std::shared_ptr<StreamReactor>& reactor) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const jobs::JobId id, DecodeJobId(message, message.id()));
        auto stream = std::make_shared<JobStream>(PumpOf(state_, reactor));
        reactor->SetSource(stream);
        engine.jobs().Watch(id, reactor->call().context().principal, stream);
        return absl::OkStatus();
      });
}

ServerUnaryReactor* JobsService::Cancel(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::CancelJobRequest, pb::Job>(
      state_, *context, "Jobs.Cancel", *in, out,
      [](const pb::CancelJobRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const jobs::JobId id, DecodeJobId(message, message.id()));
        engine.jobs().Cancel(id, call.principal, Encoded<pb::Job, jobs::JobInfo>(std::move(done), EncodeJob));
        return absl::OkStatus();
      });
}

ServerUnaryReactor* JobsService::Delete(CallbackServerContext* context, const ByteBuffer* in, ByteBuffer* out) {
  return ServeUnary<pb::DeleteJobRequest, pb::DeleteJobReply>(
      state_, *context, "Jobs.Delete", *in, out,
      [](const pb::DeleteJobRequest& message, engine::Engine& engine, const api::CallContext& call, auto done) -> absl::Status {
        FS_ASSIGN_OR_RETURN(const jobs::JobId id, DecodeJobId(message, message.id()));
        engine.jobs().Delete(id, call.principal, Encoded<pb::DeleteJobReply, jobs::JobId>(std::move(done), [](const jobs::JobId&) {
                               return pb::DeleteJobReply();
                             }));
        return absl::OkStatus();
      });
}

}  // namespace fluoroscope::rpc
