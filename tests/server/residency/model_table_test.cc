#include "residency/model_table.h"

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fluoroscope::residency {
namespace {

using testing::HasSubstr;

// Something whose memory may be held on its own.
class Fake final : public Resident {
 public:
  std::weak_ptr<const void> memory() const override { return weights; }
  std::shared_ptr<int> weights = std::make_shared<int>(7);
};

struct Heard {
  int calls = 0;
  absl::Status status;
  ModelTable::Model model;
  bool at_once = false;
};

ModelTable::Waiter Into(Heard& heard) {
  return [&heard](const absl::StatusOr<ModelTable::Model>& model, bool at_once) {
    ++heard.calls;
    heard.status = model.status();
    heard.model = model.ok() ? *model : nullptr;
    heard.at_once = at_once;
    return [] {};
  };
}

TEST(ModelTableTest, LoadUseUnloadLoad) {
  ModelTable table;
  table.Know({"m", "/m", "bf16"});
  EXPECT_EQ(table.SourceOf("m")->dtype, "bf16");
  EXPECT_EQ(table.Find("m").status().message(), "model 'm' is not loaded; load it first (LoadModel, in Python load_model); loaded: none");
  Heard first, second, third;
  std::shared_ptr<LoadProgress> progress;
  EXPECT_EQ(table.Request({"m", "/m", ""}, Into(first), &progress), ModelTable::Answer::kLoad);
  progress->done_bytes = 3;
  progress->total_bytes = 8;
  EXPECT_EQ(table.Find("m").status().message(), "model 'm' is being loaded (3 of 8 bytes); try again later");
  EXPECT_EQ(table.Find("m").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(table.Remove("m").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(table.Request({"m", "/m", ""}, Into(second), &progress), ModelTable::Answer::kShared);
  EXPECT_EQ(table.List().at(0).state, State::kLoading);
  EXPECT_EQ(table.List().at(0).done_bytes, 3u);
  EXPECT_EQ(first.calls + second.calls, 0);

  auto model = std::make_shared<Fake>();
  table.Loaded("m", *progress, model);
  EXPECT_EQ(first.model, model);
  EXPECT_EQ(second.model, model);
  EXPECT_FALSE(first.at_once);
  EXPECT_EQ(table.Request({"m", "/m", ""}, Into(third), &progress), ModelTable::Answer::kLoaded);
  EXPECT_TRUE(third.at_once);
  EXPECT_EQ(third.model, model);
  EXPECT_EQ(*table.Find("m"), model);
  first = second = third = {};

  std::shared_ptr<int> run = model->weights;  // a request in flight holds the weights alone
  model = nullptr;
  EXPECT_NE(table.Remove("m").value(), nullptr);
  EXPECT_EQ(table.Find("m").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table.Find("m").status().message(), "model 'm' was unloaded; load it again (LoadModel, in Python load_model); loaded: none");
  EXPECT_TRUE(table.InUse("m"));
  EXPECT_EQ(table.List().at(0).state, State::kUnloading);
  EXPECT_EQ(table.Remove("m").value(), nullptr);  // again
  run = nullptr;
  EXPECT_FALSE(table.InUse("m"));
  EXPECT_EQ(table.List().at(0).state, State::kAvailable);

  EXPECT_EQ(table.Request({"m", "/m", ""}, Into(first), &progress), ModelTable::Answer::kLoad);
  EXPECT_EQ(progress->done_bytes, 0u);
  table.Loaded("m", *progress, std::make_shared<Fake>());
  EXPECT_EQ(first.calls, 1);
}

TEST(ModelTableTest, AFailedLoadLeavesNothingBehind) {
  ModelTable table;
  Heard heard;
  std::shared_ptr<LoadProgress> progress;
  ASSERT_EQ(table.Request({"m", "/m", ""}, Into(heard), &progress), ModelTable::Answer::kLoad);
  table.Failed("m", *progress, absl::InvalidArgumentError("broken"));
  EXPECT_EQ(heard.calls, 1);
  EXPECT_EQ(heard.status.message(), "broken");
  EXPECT_EQ(table.Find("m").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table.List().at(0).state, State::kAvailable);
  EXPECT_EQ(table.Request({"m", "/m", ""}, Into(heard), &progress), ModelTable::Answer::kLoad);
  EXPECT_FALSE(progress->cancel.cancelled());
  table.CancelLoads();
  EXPECT_TRUE(progress->cancel.cancelled());
  table.Failed("m", *progress, absl::CancelledError());
}

TEST(ModelTableTest, UnknownNamesSayWhatIsLoaded) {
  ModelTable table;
  for (const char* name : {"b", "a"}) {
    std::shared_ptr<LoadProgress> progress;
    Heard heard;
    table.Request({name, "/", ""}, Into(heard), &progress);
    table.Loaded(name, *progress, std::make_shared<Fake>());
  }
  EXPECT_EQ(table.Find("c").status().message(), "no model 'c'; loaded: a, b");
  EXPECT_EQ(table.Remove("c").status().message(), "no model 'c'; loaded: a, b");
  EXPECT_EQ(table.SourceOf("c").status().code(), absl::StatusCode::kNotFound);
}

TEST(ModelTableTest, ALoadThatNobodyWantsIsCancelled) {
  ModelTable table;
  table.Know({"m", "/m", ""});
  Heard first, second, third;
  CancelToken one, two;
  std::shared_ptr<LoadProgress> old, progress;
  ASSERT_EQ(table.Request({"m", "/m", ""}, Into(first), &old, one), ModelTable::Answer::kLoad);
  ASSERT_EQ(table.Request({"m", "/m", ""}, Into(second), &progress, two), ModelTable::Answer::kShared);
  table.CancelUnwanted();
  one.Cancel();
  table.CancelUnwanted();
  EXPECT_FALSE(old->cancel.cancelled()) << "the other waits for it";
  EXPECT_EQ(table.List().at(0).state, State::kLoading);
  two.Cancel();
  table.CancelUnwanted();
  EXPECT_TRUE(old->cancel.cancelled());
  EXPECT_EQ(table.List().at(0).state, State::kAvailable);
  EXPECT_EQ(first.calls + second.calls, 0);
  // Who comes now gets a load of its own, and hears nothing of the old one.
  ASSERT_EQ(table.Request({"m", "/m", ""}, Into(third), &progress), ModelTable::Answer::kLoad);
  EXPECT_NE(progress, old);
  EXPECT_FALSE(progress->cancel.cancelled());
  table.Failed("m", *old, absl::CancelledError("the load was cancelled"));
  for (const Heard* heard : {&first, &second}) {
    EXPECT_EQ(heard->calls, 1);
    EXPECT_EQ(heard->status, absl::CancelledError("nobody wants model 'm' any more; its load was cancelled"));
  }
  EXPECT_EQ(third.calls, 0);
  EXPECT_EQ(table.List().at(0).state, State::kLoading);
  table.Loaded("m", *progress, std::make_shared<Fake>());
  EXPECT_TRUE(third.status.ok());
  EXPECT_TRUE(table.Find("m").ok());
}

// The cancel came too late for the loader, but in time for the table.
TEST(ModelTableTest, AModelThatNobodyWantsIsNotKept) {
  ModelTable table;
  Heard heard;
  CancelToken gone;
  std::shared_ptr<LoadProgress> progress;
  ASSERT_EQ(table.Request({"m", "/m", ""}, Into(heard), &progress, gone), ModelTable::Answer::kLoad);
  gone.Cancel();
  table.CancelUnwanted();
  auto model = std::make_shared<Fake>();
  const std::weak_ptr<int> weights = model->weights;
  table.Loaded("m", *progress, std::move(model));
  EXPECT_TRUE(absl::IsCancelled(heard.status));
  EXPECT_TRUE(weights.expired());
  EXPECT_EQ(table.List().at(0).state, State::kAvailable);
  EXPECT_FALSE(table.Find("m").ok());
}

// Who hears of a load may come back to the table: it is told without the lock, and when nobody but the table holds the model any more.
TEST(ModelTableTest, WhoHearsMayUnloadAtOnce) {
  ModelTable table;
  std::shared_ptr<LoadProgress> progress;
  int heard = 0;
  const ModelTable::Waiter unload = [&](const auto& model, bool) {
    EXPECT_TRUE(model.ok());
    return [&] {
      ++heard;
      (void)table.Remove("m").value();
      EXPECT_FALSE(table.InUse("m"));
    };
  };
  table.Request({"m", "/m", ""}, unload, &progress);
  table.Request({"m", "/m", ""}, unload, &progress);
  table.Loaded("m", *progress, std::make_shared<Fake>());
  EXPECT_EQ(heard, 2);
  EXPECT_FALSE(table.Find("m").ok());
  // One that was there already.
  table.Request(
      {"m", "/m", ""}, [](const auto&, bool) { return [] {}; }, &progress);
  table.Loaded("m", *progress, std::make_shared<Fake>());
  EXPECT_EQ(table.Request({"m", "/m", ""}, unload, &progress), ModelTable::Answer::kLoaded);
  EXPECT_EQ(heard, 3);
}

// Many threads load, use and unload the same few names; each load is one thread's, every waiter is called once, and no weights stay.
TEST(ModelTableTest, ConcurrentLoadsUsesAndUnloads) {
  ModelTable table;
  std::atomic<int> asked{0}, answered{0}, loads{0}, loading[2] = {0, 0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 1500; ++i) {
          const int which = (t + i) % 2;
          const std::string name = which == 0 ? "a" : "b";
          std::shared_ptr<LoadProgress> progress;
          ++asked;
          const auto answer = table.Request(
              {name, "/", ""}, [&](const auto&, bool) { return [&] { ++answered; }; }, &progress);
          if (answer == ModelTable::Answer::kLoad) {
            EXPECT_EQ(++loading[which], 1);  // nobody else loads it
            ++loads;
            progress->done_bytes = 1;
            --loading[which];
            if (i % 7 == 0) {
              table.Failed(name, *progress, absl::InternalError("no"));
            } else {
              table.Loaded(name, *progress, std::make_shared<Fake>());
            }
          }
          if (const auto model = table.Find(name); model.ok()) {
            const auto memory = (*model)->memory().lock();
            ASSERT_NE(memory, nullptr);
            EXPECT_EQ(*static_cast<const int*>(memory.get()), 7);
          }
          if (i % 3 == 0) (void)table.Remove(name);
          (void)table.List();
        }
      });
  }
  EXPECT_EQ(answered, asked);
  EXPECT_GT(loads, 2);
  for (const char* name : {"a", "b"}) {
    (void)table.Remove(name);
    EXPECT_FALSE(table.InUse(name));
  }
}

}  // namespace
}  // namespace fluoroscope::residency
