// The engine's way to keep grid requests and their results as the wire's own messages.
#pragma once

#include <memory>

#include "api/grid_codec.h"
#include "config/config.h"

namespace fluoroscope::rpc {

// Free of gRPC and of generated headers, so that main can give it to the engine.
std::shared_ptr<const api::GridCodec> MakeGridCodec(const config::Limits& limits);

}  // namespace fluoroscope::rpc
