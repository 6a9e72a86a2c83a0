#include "rpc/codec_server.h"

#include "rpc/strict.h"

namespace fluoroscope::rpc {

namespace pb = ::fluoroscope::v1;

absl::Status DecodeGetStatus(const pb::GetStatusRequest& request) { return CheckStrict(request); }

pb::ServerStatus EncodeServerStatus(const api::ServerStatus& status) {
  pb::ServerStatus out;
  out.set_admitted_bytes(status.admitted_bytes);
  out.set_budget_bytes(status.budget_bytes);
  out.set_weights_bytes(status.weights_bytes);
  out.set_weights_budget_bytes(status.weights_budget_bytes);
  out.set_uptime_seconds(status.uptime_seconds);
  out.set_busy_seconds(status.busy_seconds);
  out.set_finished_requests(status.finished_requests);
  for (const api::WorkStatus& work : status.works) {
    pb::WorkStatus* one = out.add_works();
    one->set_principal(work.principal);
    one->set_state(work.running ? pb::WorkStatus::STATE_RUNNING : pb::WorkStatus::STATE_WAITING);
    one->set_priority(work.priority == api::Priority::kBatch ? pb::WorkStatus::PRIORITY_BATCH : pb::WorkStatus::PRIORITY_INTERACTIVE);
    one->set_age_seconds(work.age_seconds);
    one->set_peak_bytes(work.peak_bytes);
    one->set_flops(work.flops);
  }
  return out;
}

}  // namespace fluoroscope::rpc
