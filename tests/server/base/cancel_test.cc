#include "base/cancel.h"

#include <thread>

#include "gtest/gtest.h"

namespace fluoroscope {
namespace {

TEST(CancelToken, CopiesShareTheFlagAndNewOnesDoNot) {
  CancelToken token;
  const CancelToken copy = token;
  const CancelToken other;
  EXPECT_FALSE(copy.cancelled());
  token.Cancel();
  EXPECT_TRUE(token.cancelled());
  EXPECT_TRUE(copy.cancelled());
  EXPECT_FALSE(other.cancelled());
}

TEST(CancelToken, IsSeenByAnotherThread) {
  CancelToken token;
  std::jthread canceller([token]() mutable { token.Cancel(); });
  while (!token.cancelled()) std::this_thread::yield();
  EXPECT_TRUE(token.cancelled());
}

}  // namespace
}  // namespace fluoroscope
