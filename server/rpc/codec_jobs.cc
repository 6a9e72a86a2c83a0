#include "rpc/codec_jobs.h"

#include "base/status_macros.h"
#include "rpc/field_path.h"
#include "rpc/strict.h"

namespace fluoroscope::rpc {
namespace {

namespace pb = ::fluoroscope::v1;

pb::JobState EncodeState(jobs::JobState state) {
  switch (state) {
    case jobs::JobState::kQueued:
      return pb::JOB_STATE_QUEUED;
    case jobs::JobState::kRunning:
      return pb::JOB_STATE_RUNNING;
    case jobs::JobState::kDone:
      return pb::JOB_STATE_DONE;
    case jobs::JobState::kFailed:
      return pb::JOB_STATE_FAILED;
    case jobs::JobState::kCancelled:
      return pb::JOB_STATE_CANCELLED;
  }
  return pb::JOB_STATE_UNSPECIFIED;
}

int64_t Milliseconds(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

}  // namespace

absl::StatusOr<SubmittedJob> DecodeSubmitJob(const pb::SubmitJobRequest& request) {
  FS_RETURN_IF_ERROR(CheckStrict(request));  // one of the two is there
  if (request.has_sweep()) return SubmittedJob{"sweep", request.sweep().SerializeAsString()};
  return SubmittedJob{"path_patch", request.path_patch().SerializeAsString()};
}

absl::Status DecodeListJobs(const pb::ListJobsRequest& request) { return CheckStrict(request); }

absl::StatusOr<jobs::JobId> DecodeJobId(const google::protobuf::Message& request, const std::string& id) {
  FS_RETURN_IF_ERROR(CheckStrict(request));
  absl::StatusOr<jobs::JobId> decoded = jobs::JobId::FromHex(id);
  const FieldPath root;
  if (!decoded.ok()) return InvalidAt({&root, "id"}, "is no id of a job: ", std::string(decoded.status().message()));
  return decoded;
}

pb::Job EncodeJob(const jobs::JobInfo& job) {
  pb::Job out;
  out.set_id(job.id.ToHex());
  out.set_kind(job.spec.kind);
  out.set_model(job.spec.model);
  out.set_state(EncodeState(job.state));
  out.set_cells_done(job.done);
  out.set_cells_total(job.spec.cells);
  out.set_code(static_cast<uint32_t>(job.status.code()));
  out.set_message(std::string(job.status.message()));
  out.set_created_ms(Milliseconds(job.created));
  out.set_changed_ms(Milliseconds(job.changed));
  out.set_weights_sha256(job.spec.weights_sha256);
  out.set_plan_sha256(job.spec.plan_sha256);
  return out;
}

pb::GetJobReply EncodeJobAndRequest(const jobs::JobInfo& job) {
  pb::GetJobReply out;
  *out.mutable_job() = EncodeJob(job);
  // Bytes that this server has parsed before.
  if (job.spec.kind == "sweep") {
    out.mutable_request()->mutable_sweep()->ParseFromString(job.spec.request);
  } else {
    out.mutable_request()->mutable_path_patch()->ParseFromString(job.spec.request);
  }
  return out;
}

pb::ListJobsReply EncodeJobList(const std::vector<jobs::JobInfo>& jobs) {
  pb::ListJobsReply out;
  for (const jobs::JobInfo& job : jobs) *out.add_jobs() = EncodeJob(job);
  return out;
}

}  // namespace fluoroscope::rpc
