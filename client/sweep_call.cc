#include "client/sweep_call.h"

#include "client/status.h"

namespace fluoroscope::client {

absl::StatusOr<SweepResult> ReadSweep(grpc::ClientReader<v1::SweepReply>& call, grpc::ClientContext& context, size_t request_bytes,
                                      const Client::SweepProgress& progress) {
  SweepAssembler assembler;
  absl::Status taken;
  v1::SweepReply message;
  while (call.Read(&message)) {
    if (!taken.ok()) continue;  // cancelled: what is still on its way
    taken = assembler.Take(message);
    if (!taken.ok()) context.TryCancel();
    if (taken.ok() && progress && assembler.total() > 0) progress(assembler.done(), assembler.total());
  }
  const grpc::Status status = call.Finish();
  if (!taken.ok()) return taken;
  if (!status.ok()) return ToAbsl(status, request_bytes);
  return assembler.Finish();
}

}  // namespace fluoroscope::client
