#include "jobs/sqlite.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/status_macros.h"

namespace fluoroscope::jobs {
namespace {

constexpr int kBusyMs = 2000;  // a process that was just killed may take a moment to let go of its locks

absl::Status ErrorOf(sqlite3* database, int code) {
  const std::string text = std::string("the job store: ") + sqlite3_errmsg(database);
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(text);
    case SQLITE_FULL:
    case SQLITE_NOMEM:
      return absl::ResourceExhaustedError(text);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return absl::FailedPreconditionError(text);
    default:
      return absl::InternalError(text);
  }
}

// SQLite would make the file with the process's umask; its journal gets the file's own mode.
absl::Status MakePrivate(const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return absl::FailedPreconditionError(path + ": " + std::strerror(errno));
  const int made = fchmod(file, 0600);
  const int why = errno;
  close(file);
  if (made != 0) return absl::FailedPreconditionError(path + ": cannot make it private: " + std::strerror(why));
  return absl::OkStatus();
}

// Says more about what is wrong with a file than SQLite does.
absl::Status OfFile(const absl::Status& status, const std::string& path) {
  if (absl::IsUnavailable(status))
    return absl::UnavailableError(path + ": another server keeps its jobs there; give each server a directory of its own");
  if (absl::IsFailedPrecondition(status) || absl::IsInternal(status))
    return absl::FailedPreconditionError(path + ": cannot be used as a job store (" + std::string(status.message()) +
                                         "); move the file away to begin with an empty one");
  return status;
}

}  // namespace

Statement::Statement(Statement&& other) noexcept
    : database_(other.database_), statement_(std::exchange(other.statement_, nullptr)), bound_(other.bound_) {}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement& Statement::Bind(std::string_view text) {
  sqlite3_bind_text(statement_, ++bound_, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);  // NOLINT: SQLite's own cast
  return *this;
}

Statement& Statement::BindBlob(std::string_view bytes) {
  // A null pointer would be NULL, not an empty blob.
  sqlite3_bind_blob64(statement_, ++bound_, bytes.empty() ? "" : bytes.data(), bytes.size(), SQLITE_TRANSIENT);  // NOLINT
  return *this;
}

Statement& Statement::Bind(int64_t value) {
  sqlite3_bind_int64(statement_, ++bound_, value);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return ErrorOf(database_, code);
}

absl::Status Statement::Run() {
  const absl::StatusOr<bool> row = Step();
  sqlite3_reset(statement_);
  bound_ = 0;
  return row.status();
}

std::string Statement::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return bytes == nullptr ? std::string() : std::string(static_cast<const char*>(bytes), static_cast<size_t>(size));
}

int64_t Statement::Integer(int column) const { return sqlite3_column_int64(statement_, column); }

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path) {
  FS_RETURN_IF_ERROR(MakePrivate(path));
  sqlite3* raw = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Database> database(new Database(raw));
  if (code != SQLITE_OK) return OfFile(ErrorOf(raw, code), path);
  sqlite3_busy_timeout(raw, kBusyMs);
  // In WAL with synchronous NORMAL a commit survives the death of the process; a power failure may take the last ones, never the file.
  for (const char* pragma : {"PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL",
                             "PRAGMA foreign_keys = ON", "BEGIN EXCLUSIVE; COMMIT"})
    if (absl::Status status = database->Execute(pragma); !status.ok()) return OfFile(status, path);
  auto check = database->Prepare("PRAGMA quick_check(1)");
  if (!check.ok()) return OfFile(check.status(), path);
  const absl::StatusOr<bool> row = check->Step();
  if (!row.ok()) return OfFile(row.status(), path);
  if (*row && check->Text(0) != "ok") return OfFile(absl::FailedPreconditionError("it is damaged: " + check->Text(0)), path);
  return database;
}

Database::~Database() { sqlite3_close_v2(database_); }

absl::Status Database::Execute(const std::string& sql) {
  const int code = sqlite3_exec(database_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : ErrorOf(database_, code);
}

absl::StatusOr<Statement> Database::Prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(database_, sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
  if (code != SQLITE_OK) return ErrorOf(database_, code);
  return Statement(database_, statement);
}

int64_t Database::changes() const { return sqlite3_changes64(database_); }
int64_t Database::last_row() const { return sqlite3_last_insert_rowid(database_); }

Transaction::~Transaction() {
  if (open_ && begun_.ok()) (void)database_.Execute("ROLLBACK");
}

absl::Status Transaction::Commit() {
  FS_RETURN_IF_ERROR(begun_);
  FS_RETURN_IF_ERROR(database_.Execute("COMMIT"));
  open_ = false;
  return absl::OkStatus();
}

}  // namespace fluoroscope::jobs
