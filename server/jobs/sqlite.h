// What the store needs of SQLite: statements that give absl::Status and clean up behind themselves.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct sqlite3;
struct sqlite3_stmt;

namespace fluoroscope::jobs {

// A prepared statement. Parameters are bound in order; Step runs it; columns are read by index. Used by one thread at a time.
class Statement {
 public:
  Statement(sqlite3* database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}
  Statement(Statement&& other) noexcept;
  Statement(const Statement&) = delete;
  Statement& operator=(Statement&&) = delete;
  ~Statement();

  Statement& Bind(std::string_view text);
  Statement& BindBlob(std::string_view bytes);
  Statement& Bind(int64_t value);

  // True: there is a row; false: the end.
  absl::StatusOr<bool> Step();
  // For statements without rows. Afterwards it may be bound and run again.
  absl::Status Run();

  std::string Text(int column) const;  // or a blob
  int64_t Integer(int column) const;

 private:
  sqlite3* database_;
  sqlite3_stmt* statement_;
  int bound_ = 0;
};

// A database file. Used by one thread at a time.
class Database {
 public:
  // Opens or creates the file with mode 0600 and keeps it locked: a second process is refused with UNAVAILABLE. FAILED_PRECONDITION when it
  // is no database or damaged.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Statements without results, several with semicolons.
  absl::Status Execute(const std::string& sql);
  absl::StatusOr<Statement> Prepare(std::string_view sql);
  int64_t changes() const;  // rows that the last statement changed
  int64_t last_row() const;

 private:
  explicit Database(sqlite3* database) : database_(database) {}
  sqlite3* database_;
};

// All statements until Commit happen, or none. One at a time.
class Transaction {
 public:
  explicit Transaction(Database& database) : database_(database), begun_(database.Execute("BEGIN IMMEDIATE")) {}
  ~Transaction();  // rolls back what was not committed
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  const absl::Status& begun() const { return begun_; }
  absl::Status Commit();

 private:
  Database& database_;
  absl::Status begun_;
  bool open_ = true;
};

}  // namespace fluoroscope::jobs
