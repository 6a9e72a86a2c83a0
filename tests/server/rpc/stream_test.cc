// The reactor of streams of replies, without gRPC on the other side: it keeps what it is told until it is bound to a call.
#include "rpc/stream.h"

#include <memory>
#include <stdexcept>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "obs/metrics.h"

namespace fluoroscope::rpc {
namespace {

// Throws when it is asked.
class Throwing final : public MessageSource {
 public:
  explicit Throwing(int* stopped) : stopped_(stopped) {}
  Next Take(Call&) override { throw std::runtime_error("no message"); }
  void Sent() override {}
  void Stop() override { ++*stopped_; }

 private:
  int* const stopped_;
};

TEST(StreamReactorTest, ASourceThatThrowsIsStopped) {
  config::Limits limits;
  obs::Metrics metrics;
  ServerState state(limits, metrics);
  const grpc::CallbackServerContext context;
  int stopped = 0;
  auto source = std::make_shared<Throwing>(&stopped);
  const std::weak_ptr<MessageSource> alive = source;
  {
    const std::shared_ptr<StreamReactor> reactor = StreamReactor::Make(state, context, "Inference.Forward");
    reactor->SetSource(std::move(source));
    reactor->Pump();  // takes, and ends the call
    reactor->Pump();  // nothing may follow
    reactor->OnDone();
    EXPECT_EQ(stopped, 1);
    EXPECT_TRUE(alive.expired());
    reactor->Pump();  // as a task of the writer that comes late
  }
  EXPECT_THAT(metrics.Serialize(), testing::HasSubstr("fluoroscope_rpcs_total{code=\"INTERNAL\",method=\"Inference.Forward\"} 1"));
}

}  // namespace
}  // namespace fluoroscope::rpc
