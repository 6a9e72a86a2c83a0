// Leases, limits and who sees what, with a clock of the test's own.
#include "store/handle_store.h"

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "obs/metrics.h"
#include "store/handle_id.h"

namespace fluoroscope::store {
namespace {

using testing::HasSubstr;
using testing::Not;

class HandleStoreTest : public testing::Test {
 protected:
  HandleStore::Options Options() {
    HandleStore::Options options;
    options.total_bytes = 1000;
    options.principal_bytes = 600;
    options.principal_handles = 20;
    options.max_ttl = std::chrono::seconds(100);
    options.now = [this] { return now_; };
    options.reserve = [this](uint64_t bytes) {
      if (reserved_ + bytes > budget_) return absl::ResourceExhaustedError("the budget is full");
      reserved_ += bytes;
      return absl::OkStatus();
    };
    options.release = [this](uint64_t bytes) { reserved_ -= bytes; };
    return options;
  }

  // A handle of `bytes` bytes; its memory says when it is gone.
  absl::StatusOr<api::Handle> Add(const std::string& principal, size_t bytes, uint32_t ttl = 10) {
    absl::StatusOr<Charge> charge = store_->Reserve(principal, bytes);
    if (!charge.ok()) return charge.status();
    auto owner = std::shared_ptr<std::vector<std::byte>>(new std::vector<std::byte>(bytes), [this](auto* memory) {
      --live_;
      delete memory;
    });
    ++live_;
    api::Handle info;
    info.site = "hook_embed";
    const std::span<const std::byte> data(*owner);
    return store_->Add(principal, std::move(info), {api::DType::kBool, {static_cast<int64_t>(bytes)}, data, std::move(owner)}, std::nullopt,
                       *std::move(charge), ttl);
  }

  std::string WhyNot(const std::string& id, const std::string& principal = "me") {
    const auto found = store_->Find(id, principal);
    EXPECT_EQ(found.status().code(), absl::StatusCode::kNotFound);
    return std::string(found.status().message());
  }

  void Pass(int seconds) { now_ += std::chrono::seconds(seconds); }

  obs::Metrics metrics_;
  HandleStore::Clock::time_point now_{};
  uint64_t budget_ = 10000;
  std::atomic<uint64_t> reserved_ = 0;
  std::atomic<int> live_ = 0;
  std::unique_ptr<HandleStore> store_ = std::make_unique<HandleStore>(Options(), metrics_);
};

TEST_F(HandleStoreTest, GivesBackWhatWasAdded) {
  const auto handle = Add("me", 100);
  ASSERT_TRUE(handle.ok());
  EXPECT_EQ(handle->byte_size, 100u);
  EXPECT_EQ(handle->seconds_left, 10);
  const auto found = store_->Find(handle->id, "me");
  ASSERT_TRUE(found.ok());
  EXPECT_EQ((*found)->info().site, "hook_embed");
  EXPECT_EQ((*found)->data().bytes.size(), 100u);
  EXPECT_EQ(reserved_, 100u);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("fluoroscope_handles 1\n"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("fluoroscope_handle_bytes 100\n"));
}

TEST_F(HandleStoreTest, IdsAreRandomAndOfOneEpoch) {
  std::set<std::string> ids, epochs;
  for (int i = 0; i < 10; ++i) {
    const std::string id = Add("me", 1)->id;
    ids.insert(id);
    epochs.insert(HandleId::FromText(id)->epoch);
  }
  EXPECT_EQ(ids.size(), 10u);
  EXPECT_EQ(epochs.size(), 1u);
}

TEST_F(HandleStoreTest, ExpiresAndSaysSo) {
  const std::string id = Add("me", 100, 10)->id;
  Pass(9);
  EXPECT_TRUE(store_->Find(id, "me").ok());
  Pass(1);
  EXPECT_THAT(WhyNot(id), HasSubstr("has expired"));  // nobody has looked yet
  EXPECT_EQ(live_, 1);
  store_->Expire();
  EXPECT_EQ(live_, 0);
  EXPECT_EQ(reserved_, 0u);
  EXPECT_THAT(WhyNot(id), HasSubstr("has expired"));
  EXPECT_THAT(WhyNot(id, "somebody"), Not(HasSubstr("expired")));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("fluoroscope_handles_expired_total 1\n"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("fluoroscope_handle_bytes 0\n"));
}

TEST_F(HandleStoreTest, RenewingCountsFromNow) {
  const std::string id = Add("me", 100, 10)->id;
  Pass(8);
  const auto renewed = store_->Renew(id, "me", 20);
  ASSERT_TRUE(renewed.ok());
  EXPECT_EQ(renewed->seconds_left, 20);
  Pass(19);
  EXPECT_TRUE(store_->Find(id, "me").ok());
  EXPECT_EQ(store_->List("me", "").handles.at(0).seconds_left, 1);
  Pass(1);
  EXPECT_FALSE(store_->Find(id, "me").ok());
  EXPECT_EQ(store_->Renew(id, "me", 20).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(HandleStoreTest, TimesToLiveHaveBounds) {
  const std::string id = Add("me", 100, 10)->id;
  for (const uint32_t ttl : {0u, 101u}) {
    const auto renewed = store_->Renew(id, "me", ttl);
    EXPECT_EQ(renewed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(renewed.status().message()), HasSubstr("from 1 to 100"));
  }
  EXPECT_TRUE(store_->Renew(id, "me", 100).ok());
}

TEST_F(HandleStoreTest, DeletedIsDeleted) {
  const std::string id = Add("me", 100)->id;
  EXPECT_EQ(store_->Delete(id, "me"), absl::OkStatus());
  EXPECT_EQ(live_, 0);
  EXPECT_EQ(reserved_, 0u);
  EXPECT_THAT(WhyNot(id), HasSubstr("was deleted"));
  EXPECT_EQ(store_->Delete(id, "me").code(), absl::StatusCode::kNotFound);
}

TEST_F(HandleStoreTest, AReaderKeepsWhatIsDeletedAndItsCharge) {
  const std::string id = Add("me", 400)->id;
  auto reading = *store_->Find(id, "me");
  EXPECT_EQ(store_->Delete(id, "me"), absl::OkStatus());
  EXPECT_EQ(live_, 1);
  EXPECT_EQ(reading->data().bytes.size(), 400u);
  EXPECT_FALSE(Add("me", 201).ok());  // 400 of 600 are still held
  reading.reset();
  EXPECT_EQ(live_, 0);
  EXPECT_TRUE(Add("me", 600).ok());
}

TEST_F(HandleStoreTest, OthersDoNotExistForAPrincipal) {
  const std::string id = Add("me", 100)->id;
  const HandleId never{HandleId::FromText(id)->epoch, Id128::Random()};
  const auto message = [&](const std::string& handle) {
    std::string text = WhyNot(handle, "somebody");
    return text.replace(text.find(handle), handle.size(), "X");
  };
  EXPECT_EQ(message(id), message(never.ToText()));
  EXPECT_EQ(store_->Delete(id, "somebody").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->Renew(id, "somebody", 10).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(store_->List("somebody", "").handles.empty());
  EXPECT_TRUE(store_->Find(id, "me").ok());
  EXPECT_EQ(store_->Delete(id, "me"), absl::OkStatus());
  EXPECT_EQ(message(id), message(never.ToText()));  // that it was deleted is its owner's business
}

TEST_F(HandleStoreTest, LostInRestart) {
  const std::string id = Add("me", 100)->id;
  store_ = std::make_unique<HandleStore>(Options(), metrics_);
  EXPECT_THAT(WhyNot(id), HasSubstr("lost in restart"));
}

TEST_F(HandleStoreTest, OtherTextIsNoId) {
  const std::string id = Add("me", 100)->id;
  for (const std::string& text : {std::string(), std::string("x"), id.substr(1), id + "0", "G" + id.substr(1), std::string(49, '0'),
                                  id.substr(0, 17) + std::string(32, 'A')}) {
    const auto found = store_->Find(text, "me");
    EXPECT_EQ(found.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(found.status().message()), HasSubstr("not a handle"));
  }
}

TEST_F(HandleStoreTest, LimitsSayBothNumbers) {
  ASSERT_TRUE(Add("me", 500).ok());
  const absl::Status own = Add("me", 101).status();
  EXPECT_EQ(own.code(), absl::StatusCode::kResourceExhausted);
  for (const char* number : {"101 bytes", "500 bytes", "600 bytes", "principal_mib"})
    EXPECT_THAT(std::string(own.message()), HasSubstr(number));
  ASSERT_TRUE(Add("you", 450).ok());
  const absl::Status all = Add("them", 51).status();
  EXPECT_EQ(all.code(), absl::StatusCode::kResourceExhausted);
  for (const char* number : {"51 bytes", "950 bytes", "1000 bytes", "total_mib"})
    EXPECT_THAT(std::string(all.message()), HasSubstr(number));
  EXPECT_TRUE(Add("them", 50).ok());
  EXPECT_EQ(reserved_, 1000u);
}

TEST_F(HandleStoreTest, TheBudgetHasTheLastWord) {
  budget_ = 100;
  const absl::Status status = Add("me", 101).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the budget is full"));
  EXPECT_EQ(reserved_, 0u);
  EXPECT_TRUE(Add("me", 100).ok());
}

TEST_F(HandleStoreTest, HandlesAreCountedToo) {
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Add("me", 1).ok());
  const absl::Status status = Add("me", 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 20"));
  EXPECT_TRUE(Add("you", 1).ok());
}

TEST_F(HandleStoreTest, WhatIsReservedAndNotUsedComesBack) {
  {
    auto charge = store_->Reserve("me", 600, 2);
    ASSERT_TRUE(charge.ok());
    const Charge part = charge->Split(200);
    EXPECT_FALSE(store_->Reserve("me", 1).ok());
  }
  EXPECT_EQ(reserved_, 0u);
  EXPECT_TRUE(store_->Reserve("me", 600).ok());
}

TEST_F(HandleStoreTest, ExpiredHandlesMakeRoom) {
  ASSERT_TRUE(Add("me", 600, 10).ok());
  Pass(10);
  EXPECT_TRUE(Add("me", 600).ok());
}

TEST_F(HandleStoreTest, ListsAllPagesInOrder) {
  std::set<std::string> made;
  for (int i = 0; i < 3; ++i) {
    absl::StatusOr<Charge> charge = store_->Reserve("me", 1);
    api::Handle info;
    info.positions.resize(60000);  // about 0.7 MB as a message
    made.insert(store_->Add("me", std::move(info), {}, std::nullopt, *std::move(charge), 10).id);
  }
  std::set<std::string> listed;
  std::string after;
  int pages = 0;
  do {
    const api::HandlePage page = store_->List("me", after);
    for (const api::Handle& handle : page.handles) EXPECT_TRUE(listed.insert(handle.id).second);
    after = page.next;
    ++pages;
  } while (!after.empty());
  EXPECT_EQ(listed, made);
  EXPECT_EQ(pages, 3);
}

TEST_F(HandleStoreTest, AChargeMayOutliveTheStore) {
  auto charge = store_->Reserve("me", 100);
  ASSERT_TRUE(charge.ok());
  const auto reading = *store_->Find(Add("me", 100)->id, "me");
  store_.reset();
  EXPECT_EQ(live_, 1);
}

TEST_F(HandleStoreTest, ManyThreadsReadDeleteAndExpire) {
  std::vector<std::string> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(Add("me", 10, i % 2 == 0 ? 5 : 100)->id);
  Pass(6);  // half of them have expired and are still there
  std::atomic<uint64_t> read = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round)
        for (const std::string& id : ids) {
          if (const auto found = store_->Find(id, "me"); found.ok()) {
            read += (*found)->data().bytes.size();
            EXPECT_EQ((*found)->content().sha256.size(), 64u);
          }
          if (t == 3 && round == 25) (void)store_->Delete(id, "me");
          if (t == 2) store_->Expire();
        }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(read, 0u);
  EXPECT_EQ(live_, 0);
  EXPECT_EQ(reserved_, 0u);
}

}  // namespace
}  // namespace fluoroscope::store
