#include "generate/decode_pool.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "tensor/runtime_errors.h"

namespace fluoroscope::generate {

void DecodePool::Join(GeneratingRow& row, DecodeClient& client) { members_.push_back({&row, &client}); }

void DecodePool::Leave(const DecodeClient& client) {
  const auto theirs = [&](const Member& member) { return member.client == &client; };
  std::erase_if(members_, theirs);
  if (std::none_of(running_.begin(), running_.end(), theirs)) return;
  batch_.reset();
  running_.clear();
}

bool DecodePool::Begin() {
  std::vector<GeneratingRow*> rows;
  std::deque<Member> waiting;
  for (const Member& member : members_) {
    const bool fits = running_.size() < most_rows_ && member.row->out().wants_more() &&
                      (apart_ == 0 || running_.empty() || running_.front().client == member.client);
    if (!fits) {
      waiting.push_back(member);
      continue;
    }
    running_.push_back(member);
    rows.push_back(member.row);
  }
  if (rows.empty()) return false;
  waiting.insert(waiting.end(), running_.begin(), running_.end());
  members_ = std::move(waiting);
  if (apart_ > 0) --apart_;
  std::set<const DecodeClient*> clients;
  for (const Member& member : running_) clients.insert(member.client);
  running_.front().client->OnStep(clients.size(), rows.size());
  batch_ = std::make_unique<DecodeBatch>(*model_, std::move(rows));
  return true;
}

bool DecodePool::Step() {
  if (batch_ == nullptr && !Begin()) return false;
  bool more = true;
  const absl::Status status = tensor::GuardTorch([&] { more = batch_->Step(); });
  if (status.ok() && more) return true;
  EndStep();
  if (!status.ok()) Failed(status);
  running_.clear();
  return true;
}

void DecodePool::EndStep() {
  batch_.reset();
  std::erase_if(members_, [](const Member& member) { return member.row->finished(); });
  const std::vector<Member> were = running_;
  for (const Member& member : were) {
    // A client with several such rows hears of the first: then they have left.
    const bool still = std::any_of(running_.begin(), running_.end(), [&](const Member& one) { return one.row == member.row; });
    if (!still || member.row->failure().ok()) continue;
    std::erase_if(running_, [&](const Member& one) { return one.client == member.client; });
    Leave(*member.client);
    member.client->OnDecodeFailed(member.row->failure());
  }
}

void DecodePool::Failed(absl::Status why) {
  std::set<DecodeClient*> clients;
  for (const Member& member : running_) clients.insert(member.client);
  if (clients.empty()) return;
  if (clients.size() > 1) {
    apart_ = clients.size();  // whose fault it was will show
    // When memory was out, caches may have grown that a smaller run's step now has no room beside. So the largest goes first: if it fails,
    // it gives back what the others need.
    std::map<const DecodeClient*, int64_t> positions;
    for (const Member& member : members_)
      if (clients.contains(member.client)) positions[member.client] += member.row->row().length();
    if (absl::IsResourceExhausted(why))
      std::stable_sort(members_.begin(), members_.end(),
                       [&](const Member& a, const Member& b) { return positions[a.client] > positions[b.client]; });
    return;
  }
  DecodeClient& client = *running_.front().client;
  running_.clear();
  Leave(client);
  client.OnDecodeFailed(std::move(why));
}

}  // namespace fluoroscope::generate
