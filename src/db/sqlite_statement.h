// SQLite's handles as owners, and the few calls that are needed of it. Knows no table.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace llmproxy {

struct SqliteClose {
  void operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
};
using SqliteHandle = std::unique_ptr<sqlite3, SqliteClose>;

// One prepared statement. A statement that could not be prepared answers every step() with that
// error.
class SqliteStatement {
 public:
  SqliteStatement(sqlite3* handle, std::string_view sql) {
    sqlite3_stmt* statement = nullptr;
    prepared_ =
        sqlite3_prepare_v2(handle, sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
    statement_.reset(statement);
  }

  // Parameters count from 1. The text must live until the next step().
  void bind(int index, std::string_view text) {
    sqlite3_bind_text64(statement_.get(), index, text.data(), text.size(), SQLITE_STATIC,
                        SQLITE_UTF8);
  }
  void bind(int index, int64_t number) { sqlite3_bind_int64(statement_.get(), index, number); }
  void bind_null(int index) { sqlite3_bind_null(statement_.get(), index); }

  // SQLITE_ROW, SQLITE_DONE or an error.
  int step() { return prepared_ == SQLITE_OK ? sqlite3_step(statement_.get()) : prepared_; }
  void reset() { sqlite3_reset(statement_.get()); }

  // Columns count from 0. Nothing for NULL.
  std::optional<std::string> text(int column) const {
    const unsigned char* bytes = sqlite3_column_text(statement_.get(), column);
    if (bytes == nullptr) return std::nullopt;
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column));
    return std::string(reinterpret_cast<const char*>(bytes), size);
  }
  int64_t number(int column) const { return sqlite3_column_int64(statement_.get(), column); }

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int prepared_ = SQLITE_OK;
};

}  // namespace llmproxy
