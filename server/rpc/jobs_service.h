// The Jobs service: for every RPC, decode, hand to jobs/, encode.
#pragma once

#include "fluoroscope/v1/jobs.grpc.pb.h"
#include "rpc/call.h"

namespace fluoroscope::rpc {

template <typename Service>
using RawJobs = fluoroscope::v1::Jobs::WithRawCallbackMethod_Submit<fluoroscope::v1::Jobs::WithRawCallbackMethod_Get<
    fluoroscope::v1::Jobs::WithRawCallbackMethod_List<fluoroscope::v1::Jobs::WithRawCallbackMethod_Watch<
        fluoroscope::v1::Jobs::WithRawCallbackMethod_Cancel<fluoroscope::v1::Jobs::WithRawCallbackMethod_Delete<Service>>>>>>;

class JobsService final : public RawJobs<fluoroscope::v1::Jobs::Service> {
 public:
  explicit JobsService(ServerState& state) : state_(state) {}

  grpc::ServerUnaryReactor* Submit(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Watch(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;

 private:
  ServerState& state_;
};

}  // namespace fluoroscope::rpc
