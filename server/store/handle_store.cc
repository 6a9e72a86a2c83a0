#include "store/handle_store.h"

#include <algorithm>
#include <deque>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "obs/metrics.h"
#include "store/handle_id.h"

namespace fluoroscope::store {
namespace {

constexpr size_t kRemembered = 10000;   // ended handles whose end can be told apart
constexpr size_t kPageBytes = 1 << 20;  // of List

std::string Both(uint64_t bytes) { return absl::StrCat(FormatBytes(bytes), " (", bytes, " bytes)"); }

// About what it takes as a message.
size_t MessageBytes(const api::Handle& handle) {
  return 512 + 12 * handle.positions.size() + 10 * handle.token_ids.size() + 4 * (handle.heads.size() + handle.units.size());
}

}  // namespace

// What is granted, of all principals. Outlives the store as long as somebody holds a charge.
struct Charge::Books {
  struct Account {
    uint64_t bytes = 0, handles = 0;
  };
  std::mutex mutex;
  std::map<std::string, Account> accounts;
  uint64_t total = 0;
  size_t there = 0;                       // handles that clients can use
  std::function<void(uint64_t)> release;  // empty once the store is gone
  obs::Metrics* metrics = nullptr;        // the same

  void Report() {
    if (metrics != nullptr) metrics->SetHandles(there, total);
  }
};

Charge& Charge::operator=(Charge&& other) noexcept {
  std::swap(books_, other.books_);
  std::swap(principal_, other.principal_);
  std::swap(bytes_, other.bytes_);
  std::swap(handles_, other.handles_);
  return *this;
}

Charge::~Charge() {
  if (books_ == nullptr) return;
  const std::lock_guard lock(books_->mutex);
  const auto account = books_->accounts.find(principal_);
  account->second.bytes -= bytes_;
  account->second.handles -= handles_;
  if (account->second.bytes == 0 && account->second.handles == 0) books_->accounts.erase(account);
  books_->total -= bytes_;
  if (books_->release) books_->release(bytes_);
  books_->Report();
}

Charge Charge::Split(uint64_t bytes) {
  Charge part;
  part.books_ = books_;
  part.principal_ = principal_;
  part.bytes_ = bytes;
  part.handles_ = 1;
  bytes_ -= bytes;
  handles_ -= 1;
  return part;
}

const Content& Stored::content() const {
  std::call_once(once_, [this] { content_ = ContentOf(data_); });
  return content_;
}

struct HandleStore::Entry {
  std::string principal;
  std::shared_ptr<const Stored> stored;
  Clock::time_point ends;
};

struct HandleStore::State {
  struct Ended {
    std::string principal;
    bool expired = false;
  };
  const std::string epoch = HandleId::RandomEpoch();
  std::map<Id128, Entry> entries;
  std::map<Id128, Ended> ended;
  std::deque<Id128> ended_order;  // oldest first

  void Remember(const Id128& id, const std::string& principal, bool expired) {
    ended.insert_or_assign(id, Ended{principal, expired});
    ended_order.push_back(id);
    if (ended_order.size() <= kRemembered) return;
    ended.erase(ended_order.front());
    ended_order.pop_front();
  }
};

HandleStore::HandleStore(Options options, obs::Metrics& metrics)
    : options_(std::move(options)), books_(std::make_shared<Charge::Books>()), state_(std::make_unique<State>()) {
  books_->release = options_.release;
  books_->metrics = &metrics;
  books_->Report();
}

HandleStore::~HandleStore() {
  std::map<Id128, Entry> entries;
  {
    const std::lock_guard lock(books_->mutex);
    books_->release = nullptr;
    books_->metrics = nullptr;
    entries.swap(state_->entries);
  }
}

absl::StatusOr<Charge> HandleStore::Reserve(const std::string& principal, uint64_t bytes, size_t handles) {
  Expire();
  const std::lock_guard lock(books_->mutex);
  const auto account = books_->accounts.find(principal);
  const Charge::Books::Account held = account == books_->accounts.end() ? Charge::Books::Account{} : account->second;
  if (handles > options_.principal_handles - std::min<uint64_t>(held.handles, options_.principal_handles))
    return absl::ResourceExhaustedError(absl::StrCat(handles, handles == 1 ? " handle is" : " handles are", " wanted and this client has ",
                                                     held.handles, "; at most ", options_.principal_handles, " are allowed. Delete some"));
  if (held.bytes > options_.principal_bytes || bytes > options_.principal_bytes - held.bytes)
    return absl::ResourceExhaustedError(absl::StrCat("handles of ", Both(bytes), " are wanted and this client's hold ", Both(held.bytes),
                                                     "; it may have ", Both(options_.principal_bytes),
                                                     " (handles.principal_mib). Delete some, or keep fewer layers or positions"));
  if (books_->total > options_.total_bytes || bytes > options_.total_bytes - books_->total)
    return absl::ResourceExhaustedError(absl::StrCat("handles of ", Both(bytes), " are wanted and those of all clients hold ",
                                                     Both(books_->total), "; together they may have ", Both(options_.total_bytes),
                                                     " (handles.total_mib). Delete some, or try again later"));
  if (absl::Status status = options_.reserve(bytes); !status.ok())
    return absl::Status(status.code(), absl::StrCat("handles: ", std::string(status.message())));
  Charge::Books::Account& charged = books_->accounts[principal];
  charged.bytes += bytes;
  charged.handles += handles;
  books_->total += bytes;
  books_->Report();
  Charge charge;
  charge.books_ = books_;
  charge.principal_ = principal;
  charge.bytes_ = bytes;
  charge.handles_ = handles;
  return charge;
}

absl::Status HandleStore::CheckTtl(uint32_t seconds) const {
  if (seconds > 0 && std::chrono::seconds(seconds) <= options_.max_ttl) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("ttl_seconds is ", seconds, "; it must be from 1 to ", options_.max_ttl.count(), " (handles.max_ttl_seconds)"));
}

api::Handle HandleStore::Add(const std::string& principal, api::Handle info, api::Chunk data, std::optional<Content> content, Charge charge,
                             uint32_t ttl_seconds) {
  const Id128 id = Id128::Random();
  info.id = HandleId{state_->epoch, id}.ToText();
  info.byte_size = data.bytes.size();
  api::Handle out = info;
  out.seconds_left = ttl_seconds;
  auto stored = content ? std::make_shared<const Stored>(std::move(info), std::move(data), *std::move(content), std::move(charge))
                        : std::make_shared<const Stored>(std::move(info), std::move(data), std::move(charge));
  const std::lock_guard lock(books_->mutex);
  state_->entries.emplace(id, Entry{principal, std::move(stored), options_.now() + std::chrono::seconds(ttl_seconds)});
  books_->there = state_->entries.size();
  books_->Report();
  return out;
}

HandleStore::Entry* HandleStore::FindLocked(const std::string& id, const std::string& principal, absl::Status& why) {
  const absl::StatusOr<HandleId> parsed = HandleId::FromText(id);
  if (!parsed.ok()) {
    why = parsed.status();
    return nullptr;
  }
  if (parsed->epoch != state_->epoch) {
    why = absl::NotFoundError(
        absl::StrCat("handle ", id, " was given by an earlier run of this server, and was lost in restart; make it again"));
    return nullptr;
  }
  const auto entry = state_->entries.find(parsed->value);
  if (entry != state_->entries.end() && entry->second.principal == principal && entry->second.ends > options_.now()) return &entry->second;
  const auto ended = state_->ended.find(parsed->value);
  const bool there = entry != state_->entries.end() && entry->second.principal == principal;
  const bool known = ended != state_->ended.end() && ended->second.principal == principal;
  if (there || (known && ended->second.expired)) {
    why = absl::NotFoundError(
        absl::StrCat("handle ", id, " has expired: its time to live was over; make it again, with a longer one or renewed in time"));
  } else if (known) {
    why = absl::NotFoundError(absl::StrCat("handle ", id, " was deleted"));
  } else {
    why = absl::NotFoundError(absl::StrCat("there is no handle ", id, " of this client"));
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<const Stored>> HandleStore::Find(const std::string& id, const std::string& principal) {
  const std::lock_guard lock(books_->mutex);
  absl::Status why;
  const Entry* entry = FindLocked(id, principal, why);
  if (entry == nullptr) return why;
  return entry->stored;
}

absl::StatusOr<api::Handle> HandleStore::Renew(const std::string& id, const std::string& principal, uint32_t ttl_seconds) {
  if (absl::Status status = CheckTtl(ttl_seconds); !status.ok()) return status;
  const std::lock_guard lock(books_->mutex);
  absl::Status why;
  Entry* entry = FindLocked(id, principal, why);
  if (entry == nullptr) return why;
  entry->ends = options_.now() + std::chrono::seconds(ttl_seconds);
  api::Handle info = entry->stored->info();
  info.seconds_left = ttl_seconds;
  return info;
}

absl::Status HandleStore::Delete(const std::string& id, const std::string& principal) {
  std::shared_ptr<const Stored> last;  // freed without the lock
  const std::lock_guard lock(books_->mutex);
  absl::Status why;
  Entry* entry = FindLocked(id, principal, why);
  if (entry == nullptr) return why;
  last = std::move(entry->stored);
  const Id128 value = HandleId::FromText(id)->value;
  state_->entries.erase(value);
  state_->Remember(value, principal, /*expired=*/false);
  books_->there = state_->entries.size();
  books_->Report();
  return absl::OkStatus();
}

api::HandlePage HandleStore::List(const std::string& principal, const std::string& after) {
  api::HandlePage page;
  const absl::StatusOr<HandleId> from = HandleId::FromText(after);
  const std::lock_guard lock(books_->mutex);
  const Clock::time_point now = options_.now();
  size_t bytes = 0;
  for (auto it = from.ok() ? state_->entries.upper_bound(from->value) : state_->entries.begin(); it != state_->entries.end(); ++it) {
    const Entry& entry = it->second;
    if (entry.principal != principal || entry.ends <= now) continue;
    const api::Handle& info = entry.stored->info();
    bytes += MessageBytes(info);
    if (!page.handles.empty() && bytes > kPageBytes) {
      page.next = page.handles.back().id;
      break;
    }
    page.handles.push_back(info);
    page.handles.back().seconds_left = std::chrono::duration<double>(entry.ends - now).count();
  }
  return page;
}

std::vector<std::shared_ptr<const Stored>> HandleStore::TakeExpiredLocked() {
  std::vector<std::shared_ptr<const Stored>> expired;
  const Clock::time_point now = options_.now();
  for (auto it = state_->entries.begin(); it != state_->entries.end();) {
    if (it->second.ends > now) {
      ++it;
      continue;
    }
    expired.push_back(std::move(it->second.stored));
    state_->Remember(it->first, it->second.principal, /*expired=*/true);
    it = state_->entries.erase(it);
  }
  if (expired.empty()) return expired;
  books_->there = state_->entries.size();
  if (books_->metrics != nullptr) books_->metrics->CountExpiredHandles(expired.size());
  books_->Report();
  return expired;
}

void HandleStore::Expire() {
  std::vector<std::shared_ptr<const Stored>> expired;  // freed without the lock
  const std::lock_guard lock(books_->mutex);
  expired = TakeExpiredLocked();
}

}  // namespace fluoroscope::store
