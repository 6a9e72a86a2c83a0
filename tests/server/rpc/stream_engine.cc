#include "stream_engine.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace fluoroscope::rpc {

absl::StatusOr<std::unique_ptr<api::Upload>> FakeHandles::Put(const api::PutHeader& header, const api::CallContext& call) {
  class Counted final : public api::Upload {
   public:
    Counted(FakeHandles& owner, std::string model, uint64_t size, CancelToken cancel)
        : owner_(owner), model_(std::move(model)), size_(size), cancel_(std::move(cancel)) {
      ++owner_.uploads;
    }
    ~Counted() override { --owner_.uploads; }
    absl::Status Append(uint64_t offset, std::span<const std::byte> bytes) override {
      if (offset != received_ || bytes.size() > size_ - received_) return absl::InvalidArgumentError("not what was announced");
      received_ += bytes.size();
      return absl::OkStatus();
    }
    absl::StatusOr<api::Handle> Finish() override {
      if (received_ != size_) return absl::InvalidArgumentError("bytes are missing");
      if (model_ == "throw_at_end") throw std::runtime_error("it threw at the end");
      if (model_ == "cancelled") {
        ++owner_.finishing;
        while (!cancel_.cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      ++owner_.finished;
      api::Handle handle;
      handle.id = "0";
      handle.byte_size = size_;
      return handle;
    }

   private:
    FakeHandles& owner_;
    const std::string model_;
    const uint64_t size_;
    const CancelToken cancel_;
    uint64_t received_ = 0;
  };
  if (header.model == "throw") throw std::runtime_error("it threw");
  return std::make_unique<Counted>(*this, header.model, static_cast<uint64_t>(header.shape.front()) * sizeof(float), call.cancel);
}

StreamEngine::~StreamEngine() {
  for (std::thread& thread : threads_) thread.join();
}

void StreamEngine::Run(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  threads_.emplace_back(std::move(work));
}

api::Priority StreamEngine::last_priority() {
  const std::lock_guard lock(mutex_);
  return last_priority_;
}

std::string StreamEngine::last_principal() {
  const std::lock_guard lock(mutex_);
  return last_principal_;
}

api::ModelInfo FakeModels::InfoOf(const std::string& name) {
  api::ModelInfo info;
  info.name = name;
  info.layers = 3;
  return info;
}

api::ModelList FakeModels::List() const {
  api::ModelList list{.loaded = {InfoOf("stream")}, .others = {}, .weights_bytes = 5, .weights_budget_bytes = 9};
  if (other_) {
    list.loaded.push_back(InfoOf("other"));
  } else {
    list.others.push_back({"other", api::ModelState::kLoading, 1, 4});
  }
  return list;
}

std::optional<bool> FakeModels::Serving(const std::string& name) const {
  if (name == "stream") return true;
  return name == "other" ? std::optional<bool>(other_) : std::nullopt;
}

void FakeModels::Load(api::LoadModelRequest request, api::CallContext, Callback<api::LoadModelReply> done) {
  if (request.name != "other") return done(absl::NotFoundError(absl::StrCat("no model '", request.name, "'")));
  const bool was_loaded = other_.exchange(true);
  if (changed_) changed_();
  done(api::LoadModelReply{InfoOf(request.name + request.dtype), was_loaded});
}

void FakeModels::Unload(std::string name, api::CallContext, Callback<api::UnloadModelReply> done) {
  if (name != "other") return done(absl::NotFoundError(absl::StrCat("no model '", name, "'")));
  const bool was_loaded = other_.exchange(false);
  if (changed_) changed_();
  done(api::UnloadModelReply{.still_in_use = was_loaded});
}

absl::StatusOr<api::ModelDetails> StreamEngine::GetModel(const std::string& name) const {
  if (name == "throw") throw std::runtime_error("GetModel threw");
  if (name == "long") return absl::NotFoundError(std::string(100'000, 'x'));
  if (name != "stream") return absl::NotFoundError(absl::StrCat("no model \"", name, "\"; there is: stream"));
  return api::ModelDetails{.info = FakeModels::InfoOf(name), .sites = {}, .chat_template = {}, .end_of_sequence = {}};
}

void StreamEngine::Tokenize(const std::string& model, std::vector<api::Prompt> prompts, api::CallContext call,
                            Callback<std::vector<api::RowInfo>> done) {
  {
    const std::lock_guard lock(mutex_);
    last_principal_ = call.principal;
    last_priority_ = call.priority;
  }
  if (model == "throw") throw std::runtime_error("Tokenize threw");
  Run([model, prompts = std::move(prompts), call, done = std::move(done), this] {
    while (model == "hang" && !call.cancel.cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (call.cancel.cancelled()) ++cancelled;
    done(std::vector<api::RowInfo>(prompts.size()));
    if (model == "twice") done(absl::InternalError("an answer too many"));
  });
}

void StreamEngine::Detokenize(const std::string&, std::vector<api::TokenIds> rows, bool, api::CallContext,
                              Callback<std::vector<std::string>> done) {
  done(std::vector<std::string>(rows.size(), "text"));
}

void StreamEngine::Estimate(api::ForwardRequest request, api::CallContext, Callback<api::Estimate> done) {
  api::Estimate estimate;
  estimate.tokens = request.prompts.size();
  done(estimate);
}

api::Chunk StreamEngine::MakeTensor(size_t bytes) {
  auto data = std::shared_ptr<std::byte[]>(new std::byte[bytes], [this, bytes](std::byte* memory) {
    delete[] memory;
    live_bytes -= static_cast<int64_t>(bytes);
  });
  const int64_t live = live_bytes += static_cast<int64_t>(bytes);
  if (live > peak_bytes) peak_bytes = live;
  for (size_t i = 0; i < std::min<size_t>(bytes, 251); ++i) data[i] = PatternAt(i);
  for (size_t filled = 251; filled < bytes; filled *= 2) std::memcpy(data.get() + filled, data.get(), std::min(filled, bytes - filled));
  return {.dtype = api::DType::kBool, .shape = {static_cast<int64_t>(bytes)}, .bytes = {data.get(), bytes}, .owner = data};
}

void StreamEngine::Stream(int count, size_t bytes, bool repeat, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) {
  // Shared with the resume function, which may be called after this run is over.
  struct Gate {
    std::mutex mutex;
    std::condition_variable wake;
    bool open = true;
  };
  auto gate = std::make_shared<Gate>();
  sink->OnDrain([gate] {
    const std::lock_guard lock(gate->mutex);
    gate->open = true;
    gate->wake.notify_all();
  });
  sink->Push(api::ForwardHeader{});
  api::Chunk shared;
  for (int i = 0; i < count && !call.cancel.cancelled(); ++i) {
    api::NamedTensor tensor;
    tensor.name = absl::StrCat("t", i);
    if (!repeat || i == 0) shared = MakeTensor(bytes);
    tensor.data = repeat ? shared : std::exchange(shared, {});
    {
      const std::lock_guard lock(gate->mutex);
      gate->open = false;
    }
    if (sink->Push(std::move(tensor))) continue;
    ++parked;
    std::unique_lock lock(gate->mutex);
    gate->wake.wait(lock, [&] { return gate->open; });
  }
  if (call.cancel.cancelled()) {
    ++cancelled;
    sink->Finish(absl::CancelledError("seen"));
  } else {
    api::ForwardSummary summary;
    summary.queue_ms = 1.5;
    summary.run_ms = 2.5;
    sink->Push(summary);
    sink->Finish(absl::OkStatus());
  }
  ++ended;
}

void StreamEngine::Forward(api::ForwardRequest request, api::CallContext call, std::shared_ptr<api::ForwardSink> sink) {
  const std::string& model = request.model;
  if (model == "throw") throw std::runtime_error("Forward threw");
  if (model == "late_throw") {
    sink->Push(api::ForwardHeader{});
    throw std::runtime_error("Forward threw late");
  }
  if (model == "hang") {
    Run([this, call, sink] {
      sink->Push(api::ForwardHeader{});
      while (!call.cancel.cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++cancelled;
      sink->Finish(absl::CancelledError("seen"));
      ++ended;
    });
    return;
  }
  if (model == "fail") {
    Run([this, sink] {
      sink->Push(api::ForwardHeader{});
      api::NamedTensor tensor;
      tensor.name = "t0";  // the client may get it before the end overtakes it
      tensor.data = MakeTensor(1000);
      sink->Push(std::move(tensor));
      sink->Finish(absl::InternalError("it broke"));
      ++ended;
    });
    return;
  }
  int count = 0;
  size_t bytes = 0;
  const bool repeat = model.rfind("repeat:", 0) == 0;
  if (std::sscanf(model.c_str(), repeat ? "repeat:%d:%zu" : "stream:%d:%zu", &count, &bytes) != 2) {
    sink->Finish(absl::NotFoundError(absl::StrCat("no model \"", model, "\"")));
    return;
  }
  Run([=, this] { Stream(count, bytes, repeat, call, sink); });
}

Loopback::Loopback(config::Limits limits, bool serve) {
  config::ServerConfig config;
  config.grpc_address = "127.0.0.1:0";
  config.limits = limits;
  auto started = Server::Start(config, metrics);
  EXPECT_TRUE(started.ok()) << started.status();
  server = std::move(*started);
  if (serve) server->Serve(engine);
}

std::string Loopback::address() const { return absl::StrCat("127.0.0.1:", server->port()); }

}  // namespace fluoroscope::rpc
