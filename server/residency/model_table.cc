#include "residency/model_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fluoroscope::residency {

void ModelTable::Know(Source source) {
  const std::lock_guard lock(mutex_);
  const std::string name = source.name;
  entries_[name].source = std::move(source);
}

absl::StatusOr<Source> ModelTable::SourceOf(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return absl::NotFoundError(absl::StrCat("no model '", name, "'"));
  return it->second.source;
}

absl::StatusOr<ModelTable::Model> ModelTable::Find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return absl::NotFoundError(absl::StrCat("no model '", name, "'; loaded: ", LoadedNames()));
  const Entry& entry = it->second;
  if (entry.model != nullptr) return entry.model;
  if (entry.progress != nullptr)
    return absl::UnavailableError(absl::StrCat("model '", name, "' is being loaded (", entry.progress->done_bytes.load(), " of ",
                                               entry.progress->total_bytes.load(), " bytes); try again later"));
  return absl::NotFoundError(absl::StrCat("model '", name, "' ",
                                          entry.was_loaded ? "was unloaded; load it again" : "is not loaded; load it first",
                                          " (LoadModel, in Python load_model)", "; loaded: ", LoadedNames()));
}

ModelTable::Answer ModelTable::Request(const Source& source, Waiter waiter, std::shared_ptr<LoadProgress>* progress, CancelToken gone) {
  Model loaded;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[source.name];
    if (entry.model == nullptr) {
      entry.waiters.push_back({std::move(waiter), std::move(gone)});
      if (entry.progress != nullptr) return Answer::kShared;
      entry.source = source;
      entry.progress = std::make_shared<LoadProgress>();
      *progress = entry.progress;
      return Answer::kLoad;
    }
    loaded = entry.model;
  }
  const std::function<void()> tell = waiter(loaded, /*at_once=*/true);
  loaded = nullptr;
  tell();
  return Answer::kLoaded;
}

void ModelTable::Loaded(const std::string& name, const LoadProgress& load, Model model) {
  absl::StatusOr<Model> result = model;
  End(name, load, std::move(model), std::move(result));
}

void ModelTable::Failed(const std::string& name, const LoadProgress& load, absl::Status why) { End(name, load, nullptr, std::move(why)); }

void ModelTable::End(const std::string& name, const LoadProgress& load, Model model, absl::StatusOr<Model> result) {
  std::vector<Waiting> waiters;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[name];
    if (const auto unwanted = unwanted_.find(&load); unwanted != unwanted_.end()) {
      waiters = std::move(unwanted->second);
      unwanted_.erase(unwanted);
      result = absl::CancelledError(absl::StrCat("nobody wants model '", name, "' any more; its load was cancelled"));
    } else {
      entry.progress = nullptr;
      entry.was_loaded = entry.was_loaded || model != nullptr;
      entry.model = std::move(model);
      waiters = std::exchange(entry.waiters, {});
    }
  }
  model = nullptr;  // one that came all the same: its memory goes before anybody hears
  std::vector<std::function<void()>> answers;
  answers.reserve(waiters.size());
  for (const Waiting& waiting : waiters) answers.push_back(waiting.waiter(result, /*at_once=*/false));
  result = nullptr;
  for (const std::function<void()>& tell : answers) tell();
}

absl::StatusOr<ModelTable::Model> ModelTable::Remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return absl::NotFoundError(absl::StrCat("no model '", name, "'; loaded: ", LoadedNames()));
  Entry& entry = it->second;
  if (entry.progress != nullptr)
    return absl::FailedPreconditionError(absl::StrCat("model '", name, "' is being loaded; unload it when that has ended"));
  if (entry.model != nullptr) {
    (void)Leaving(entry);  // forgets those that have gone
    entry.leaving.push_back(entry.model->memory());
  }
  return std::exchange(entry.model, nullptr);
}

bool ModelTable::Leaving(const Entry& entry) {
  std::erase_if(entry.leaving, [](const auto& memory) { return memory.expired(); });
  return !entry.leaving.empty();
}

bool ModelTable::InUse(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(name);
  return it != entries_.end() && Leaving(it->second);
}

void ModelTable::CancelLoads() {
  const std::lock_guard lock(mutex_);
  for (auto& [name, entry] : entries_)
    if (entry.progress != nullptr) entry.progress->cancel.Cancel();
}

void ModelTable::CancelUnwanted() {
  const std::lock_guard lock(mutex_);
  for (auto& [name, entry] : entries_) {
    const auto has_gone = [](const Waiting& waiting) { return waiting.gone.cancelled(); };
    if (entry.progress == nullptr || !std::all_of(entry.waiters.begin(), entry.waiters.end(), has_gone)) continue;
    entry.progress->cancel.Cancel();
    unwanted_[entry.progress.get()] = std::exchange(entry.waiters, {});
    entry.progress = nullptr;
  }
}

std::vector<ModelTable::Line> ModelTable::List() const {
  const std::lock_guard lock(mutex_);
  std::vector<Line> lines;
  for (const auto& [name, entry] : entries_) {
    Line line;
    line.name = name;
    line.in_store = entry.source.in_store;
    line.model = entry.model;
    if (entry.model != nullptr) {
      line.state = State::kLoaded;
    } else if (entry.progress != nullptr) {
      line.state = State::kLoading;
      line.done_bytes = entry.progress->done_bytes;
      line.total_bytes = entry.progress->total_bytes;
    } else if (Leaving(entry)) {
      line.state = State::kUnloading;
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string ModelTable::LoadedNames() const {
  std::string names;
  for (const auto& [name, entry] : entries_)
    if (entry.model != nullptr) absl::StrAppend(&names, names.empty() ? "" : ", ", name);
  return names.empty() ? "none" : names;
}

}  // namespace fluoroscope::residency
