#include "jobs/job_store.h"

#include <sys/stat.h>

#include <filesystem>

#include "base/status_macros.h"

namespace fluoroscope::jobs {
namespace {

using std::chrono::milliseconds;
using std::chrono::system_clock;

// The file says of itself that it is ours, and which version of the tables it has.
constexpr int64_t kApplication = 0x46534a42;  // "FSJB"
constexpr int64_t kVersion = 1;
constexpr char kTables[] = R"(
CREATE TABLE jobs(
  number INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of creation
  id TEXT NOT NULL UNIQUE, principal TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
  request BLOB NOT NULL, header BLOB NOT NULL, summary BLOB NOT NULL,
  plan_sha256 TEXT NOT NULL, weights_sha256 TEXT NOT NULL, numbers TEXT NOT NULL,
  state INTEGER NOT NULL, cells INTEGER NOT NULL, done INTEGER NOT NULL, next_sequence INTEGER NOT NULL,
  code INTEGER NOT NULL, message TEXT NOT NULL, created INTEGER NOT NULL, changed INTEGER NOT NULL, expected_bytes INTEGER NOT NULL) STRICT;
CREATE INDEX jobs_of ON jobs(principal);
CREATE TABLE pieces(
  job INTEGER NOT NULL REFERENCES jobs(number) ON DELETE CASCADE, sequence INTEGER NOT NULL, bytes BLOB NOT NULL,
  PRIMARY KEY(job, sequence)) STRICT, WITHOUT ROWID;
)";

// The columns in the order in which InfoOf reads them.
constexpr char kColumns[] =
    "id, principal, kind, model, plan_sha256, weights_sha256, numbers, state, cells, done, next_sequence, code, message, created, changed, "
    "expected_bytes";
constexpr char kAllColumns[] =
    "id, principal, kind, model, plan_sha256, weights_sha256, numbers, state, cells, done, next_sequence, code, message, created, changed, "
    "expected_bytes, request, header, summary";

JobInfo InfoOf(const Statement& row, bool complete) {
  JobInfo info;
  // An id that is not one cannot have been written here; the all-zero id that it becomes is nobody's.
  if (const absl::StatusOr<JobId> id = JobId::FromHex(row.Text(0)); id.ok()) info.id = *id;
  info.spec.principal = row.Text(1);
  info.spec.kind = row.Text(2);
  info.spec.model = row.Text(3);
  info.spec.plan_sha256 = row.Text(4);
  info.spec.weights_sha256 = row.Text(5);
  info.spec.numbers = row.Text(6);
  info.state = static_cast<JobState>(row.Integer(7));
  info.spec.cells = static_cast<uint64_t>(row.Integer(8));
  info.done = static_cast<uint64_t>(row.Integer(9));
  info.next_sequence = static_cast<uint64_t>(row.Integer(10));
  if (row.Integer(11) != 0) info.status = absl::Status(static_cast<absl::StatusCode>(row.Integer(11)), row.Text(12));
  info.created = system_clock::time_point(milliseconds(row.Integer(13)));
  info.changed = system_clock::time_point(milliseconds(row.Integer(14)));
  info.spec.expected_bytes = static_cast<uint64_t>(row.Integer(15));
  if (complete) {
    info.spec.request = row.Text(16);
    info.spec.header = row.Text(17);
    info.summary = row.Text(18);
  }
  return info;
}

absl::Status NoSuchJob(const JobId& id) {
  return absl::NotFoundError("there is no job " + id.ToHex() + ", or it belongs to another principal (x-fluoroscope-principal)");
}

absl::StatusOr<std::vector<JobInfo>> All(absl::StatusOr<Statement> query, bool complete) {
  FS_RETURN_IF_ERROR(query.status());
  std::vector<JobInfo> jobs;
  while (true) {
    FS_ASSIGN_OR_RETURN(const bool row, query->Step());
    if (!row) return jobs;
    jobs.push_back(InfoOf(*query, complete));
  }
}

absl::StatusOr<int64_t> Number(absl::StatusOr<Statement> query) {
  FS_RETURN_IF_ERROR(query.status());
  FS_ASSIGN_OR_RETURN(const bool row, query->Step());
  return row ? query->Integer(0) : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(const std::string& directory, Options options) {
  std::error_code error;
  if (std::filesystem::create_directories(directory, error)) chmod(directory.c_str(), 0700);
  if (!std::filesystem::is_directory(directory))
    return absl::FailedPreconditionError(directory + ": cannot be made a directory for jobs" + (error ? ": " + error.message() : ""));
  const std::string path = directory + "/jobs.sqlite";
  FS_ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::Open(path));
  std::unique_ptr<JobStore> store(new JobStore(std::move(database), std::move(options)));
  FS_RETURN_IF_ERROR(store->Prepare(path));
  return store;
}

absl::Status JobStore::Prepare(const std::string& path) {
  FS_ASSIGN_OR_RETURN(const int64_t application, Number(database_->Prepare("PRAGMA application_id")));
  FS_ASSIGN_OR_RETURN(const int64_t version, Number(database_->Prepare("PRAGMA user_version")));
  FS_ASSIGN_OR_RETURN(const int64_t tables, Number(database_->Prepare("SELECT count(*) FROM sqlite_master")));
  if (application == 0 && version == 0 && tables == 0) {
    Transaction create(*database_);
    FS_RETURN_IF_ERROR(create.begun());
    FS_RETURN_IF_ERROR(database_->Execute(std::string(kTables) + "PRAGMA application_id = " + std::to_string(kApplication) +
                                          "; PRAGMA user_version = " + std::to_string(kVersion)));
    FS_RETURN_IF_ERROR(create.Commit());
  } else if (application != kApplication) {
    return absl::FailedPreconditionError(path +
                                         ": is a database, but not one of Fluoroscope's jobs; move it away to begin with an empty one");
  } else if (version != kVersion) {
    return absl::FailedPreconditionError(path + ": has version " + std::to_string(version) +
                                         " of the job tables; this server reads version " + std::to_string(kVersion));
  }
  return database_->Execute("UPDATE jobs SET state = " + std::to_string(static_cast<int>(JobState::kQueued)) +
                            " WHERE state = " + std::to_string(static_cast<int>(JobState::kRunning)));
}

int64_t JobStore::Now() const { return std::chrono::duration_cast<milliseconds>(options_.now().time_since_epoch()).count(); }

absl::Status JobStore::CheckRoom(const JobSpec& spec) {
  FS_ASSIGN_OR_RETURN(Statement count, database_->Prepare("SELECT count(*) FROM jobs WHERE principal = ?"));
  count.Bind(spec.principal);
  FS_ASSIGN_OR_RETURN(const int64_t jobs, Number(std::move(count)));
  if (jobs >= static_cast<int64_t>(options_.max_per_principal))
    return absl::ResourceExhaustedError("you have " + std::to_string(jobs) + " jobs, finished ones included; the limit is " +
                                        std::to_string(options_.max_per_principal) + ": delete those that are not needed any more");
  FS_ASSIGN_OR_RETURN(const int64_t kept, Number(database_->Prepare("SELECT total(expected_bytes) FROM jobs")));
  if (static_cast<uint64_t>(kept) + spec.expected_bytes > options_.max_bytes)
    return absl::ResourceExhaustedError("the job's results would take about " + std::to_string(spec.expected_bytes) +
                                        " bytes and all jobs' " + std::to_string(kept) + " already; the server keeps at most " +
                                        std::to_string(options_.max_bytes) + ": delete jobs that are not needed any more");
  return absl::OkStatus();
}

absl::StatusOr<JobInfo> JobStore::Create(JobSpec spec) {
  FS_RETURN_IF_ERROR(CheckRoom(spec));
  JobInfo info;
  info.id = JobId::Random();
  const int64_t now = Now();
  info.created = info.changed = system_clock::time_point(milliseconds(now));
  FS_ASSIGN_OR_RETURN(
      Statement insert,
      database_->Prepare("INSERT INTO jobs(id, principal, kind, model, request, header, plan_sha256, weights_sha256, numbers, "
                         "cells, created, changed, expected_bytes, state, done, next_sequence, code, message, summary) "
                         "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, '', x'')"));
  insert.Bind(info.id.ToHex()).Bind(spec.principal).Bind(spec.kind).Bind(spec.model).BindBlob(spec.request).BindBlob(spec.header);
  insert.Bind(spec.plan_sha256).Bind(spec.weights_sha256).Bind(spec.numbers).Bind(static_cast<int64_t>(spec.cells)).Bind(now).Bind(now);
  insert.Bind(static_cast<int64_t>(spec.expected_bytes));
  FS_RETURN_IF_ERROR(insert.Run());
  info.spec = std::move(spec);
  return info;
}

absl::StatusOr<JobInfo> JobStore::Get(const JobId& id, const std::string& principal) {
  FS_ASSIGN_OR_RETURN(Statement query,
                      database_->Prepare(std::string("SELECT ") + kAllColumns + " FROM jobs WHERE id = ? AND principal = ?"));
  query.Bind(id.ToHex()).Bind(principal);
  FS_ASSIGN_OR_RETURN(const bool row, query.Step());
  if (!row) return NoSuchJob(id);
  return InfoOf(query, /*complete=*/true);
}

absl::StatusOr<std::vector<JobInfo>> JobStore::List(const std::string& principal) {
  FS_ASSIGN_OR_RETURN(Statement query,
                      database_->Prepare(std::string("SELECT ") + kColumns + " FROM jobs WHERE principal = ? ORDER BY number DESC"));
  query.Bind(principal);
  return All(std::move(query), /*complete=*/false);
}

absl::StatusOr<std::vector<JobInfo>> JobStore::Unfinished() {
  return All(database_->Prepare(std::string("SELECT ") + kAllColumns +
                                " FROM jobs WHERE state <= " + std::to_string(static_cast<int>(JobState::kRunning)) + " ORDER BY number"),
             /*complete=*/true);
}

absl::Status JobStore::SetState(const JobId& id, JobState state, const absl::Status& status, const std::string& summary) {
  FS_ASSIGN_OR_RETURN(Statement query, database_->Prepare("SELECT state FROM jobs WHERE id = ?"));
  query.Bind(id.ToHex());
  FS_ASSIGN_OR_RETURN(const bool row, query.Step());
  if (!row) return NoSuchJob(id);
  const auto before = static_cast<JobState>(query.Integer(0));
  if (!MayBecome(before, state))
    return absl::FailedPreconditionError("a job that is " + std::string(NameOf(before)) + " cannot become " + std::string(NameOf(state)));
  FS_ASSIGN_OR_RETURN(Statement update,
                      database_->Prepare("UPDATE jobs SET state = ?, code = ?, message = ?, summary = ?, changed = ? WHERE id = ?"));
  update.Bind(static_cast<int64_t>(state)).Bind(static_cast<int64_t>(status.code()));
  update.Bind(std::string(status.message())).BindBlob(summary).Bind(Now()).Bind(id.ToHex());
  return update.Run();
}

absl::Status JobStore::Append(const JobId& id, uint64_t first_sequence, const std::vector<Piece>& pieces) {
  Transaction all(*database_);
  FS_RETURN_IF_ERROR(all.begun());
  FS_ASSIGN_OR_RETURN(Statement job, database_->Prepare("SELECT number, state, next_sequence, done, cells FROM jobs WHERE id = ?"));
  job.Bind(id.ToHex());
  FS_ASSIGN_OR_RETURN(const bool row, job.Step());
  if (!row) return NoSuchJob(id);
  if (static_cast<JobState>(job.Integer(1)) != JobState::kRunning)
    return absl::FailedPreconditionError("pieces of a job that is " + std::string(NameOf(static_cast<JobState>(job.Integer(1)))));
  if (job.Integer(2) != static_cast<int64_t>(first_sequence))
    return absl::FailedPreconditionError("piece " + std::to_string(first_sequence) + " of a job whose next is " +
                                         std::to_string(job.Integer(2)));
  uint64_t done = static_cast<uint64_t>(job.Integer(3)), sequence = first_sequence;
  FS_ASSIGN_OR_RETURN(Statement insert, database_->Prepare("INSERT INTO pieces(job, sequence, bytes) VALUES(?, ?, ?)"));
  for (const Piece& piece : pieces) {
    FS_RETURN_IF_ERROR(insert.Bind(job.Integer(0)).Bind(static_cast<int64_t>(sequence++)).BindBlob(piece.bytes).Run());
    done += piece.cells;
  }
  if (done > static_cast<uint64_t>(job.Integer(4)))
    return absl::InternalError("a job of " + std::to_string(job.Integer(4)) + " cells would have finished " + std::to_string(done));
  FS_ASSIGN_OR_RETURN(Statement update, database_->Prepare("UPDATE jobs SET next_sequence = ?, done = ? WHERE number = ?"));
  FS_RETURN_IF_ERROR(update.Bind(static_cast<int64_t>(sequence)).Bind(static_cast<int64_t>(done)).Bind(job.Integer(0)).Run());
  return all.Commit();
}

absl::StatusOr<std::vector<std::string>> JobStore::Read(const JobId& id, const std::string& principal, uint64_t from, uint64_t max_bytes) {
  FS_ASSIGN_OR_RETURN(Statement job, database_->Prepare("SELECT number FROM jobs WHERE id = ? AND principal = ?"));
  job.Bind(id.ToHex()).Bind(principal);
  FS_ASSIGN_OR_RETURN(const bool there, job.Step());
  if (!there) return NoSuchJob(id);
  FS_ASSIGN_OR_RETURN(Statement query, database_->Prepare("SELECT bytes FROM pieces WHERE job = ? AND sequence >= ? ORDER BY sequence"));
  query.Bind(job.Integer(0)).Bind(static_cast<int64_t>(from));
  std::vector<std::string> pieces;
  uint64_t bytes = 0;
  while (pieces.empty() || bytes < max_bytes) {
    FS_ASSIGN_OR_RETURN(const bool row, query.Step());
    if (!row) break;
    std::string piece = query.Text(0);
    if (!pieces.empty() && bytes + piece.size() > max_bytes) break;
    bytes += piece.size();
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

absl::Status JobStore::Delete(const JobId& id, const std::string& principal) {
  FS_ASSIGN_OR_RETURN(Statement remove, database_->Prepare("DELETE FROM jobs WHERE id = ? AND principal = ?"));
  FS_RETURN_IF_ERROR(remove.Bind(id.ToHex()).Bind(principal).Run());
  return database_->changes() == 0 ? NoSuchJob(id) : absl::OkStatus();
}

absl::StatusOr<size_t> JobStore::DeleteExpired() {
  FS_ASSIGN_OR_RETURN(Statement remove, database_->Prepare("DELETE FROM jobs WHERE state > ? AND changed < ?"));
  FS_RETURN_IF_ERROR(
      remove.Bind(static_cast<int64_t>(JobState::kRunning)).Bind(Now() - std::chrono::milliseconds(options_.keep).count()).Run());
  return static_cast<size_t>(database_->changes());
}

absl::StatusOr<std::array<size_t, kAllStates.size()>> JobStore::Counts() {
  FS_ASSIGN_OR_RETURN(Statement query, database_->Prepare("SELECT state, count(*) FROM jobs GROUP BY state"));
  std::array<size_t, kAllStates.size()> counts{};
  while (true) {
    FS_ASSIGN_OR_RETURN(const bool row, query.Step());
    if (!row) return counts;
    counts.at(static_cast<size_t>(query.Integer(0))) = static_cast<size_t>(query.Integer(1));
  }
}

}  // namespace fluoroscope::jobs
