// Keys and events in an SQLite file. Two connections, so that a look-up does not queue behind a
// commit. Rollback journal, not WAL: SQLite 3.40 can lose commits when two processes write in WAL
// mode; TRUNCATE, not DELETE: an unlinked journal may come back after a power cut and roll a
// durable batch back. A file that another program holds is opened later, by the first call that
// finds it free.
#include "db/sqlite.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <utility>

#include "base/text.h"
#include "billing/object_id.h"
#include "db/schema.h"
#include "db/sqlite_statement.h"

namespace llmproxy {
namespace {

constexpr int kBusyTimeoutMs = 200;  // short, so that a writer that waits lets look-ups through
constexpr int kTriesMax = 5;         // of one call while another process holds the file: 1 s in all

constexpr int kUnavailableStatus = 503;

bool is_busy(int code) {
  return (code & 0xff) == SQLITE_BUSY || (code & 0xff) == SQLITE_LOCKED;
}

// One connection and who may use it now. Calls of several threads take turns.
class Connection {
 public:
  void open(SqliteHandle handle) {
    const std::lock_guard lock(mutex_);
    handle_ = std::move(handle);
  }
  // It is not open yet, and why. run() is busy as long as that is so.
  void set_problem(const std::string& problem) {
    const std::lock_guard lock(mutex_);
    error_ = problem;
  }

  // Runs `work(handle)`, which returns SQLITE_DONE or an error; again while the file is busy. A
  // transaction that `work` left open is rolled back.
  template <class Work>
  int run(Work&& work) {
    const std::lock_guard lock(mutex_);
    if (handle_ == nullptr) return SQLITE_BUSY;
    int code = SQLITE_ERROR;
    for (int i = 0; i < kTriesMax; ++i) {
      code = work(handle_.get());
      if (code != SQLITE_DONE) error_ = sqlite3_errmsg(handle_.get());
      if (sqlite3_get_autocommit(handle_.get()) == 0) {
        sqlite3_exec(handle_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
      }
      if (!is_busy(code)) break;
    }
    return code;
  }
  // Why the last run() failed.
  std::string error() {
    const std::lock_guard lock(mutex_);
    return error_;
  }

 private:
  std::mutex mutex_;
  SqliteHandle handle_;  // guarded by mutex_; null until open()
  std::string error_;    // guarded by mutex_
};

int execute(sqlite3* handle, const char* sql) {
  const int code = sqlite3_exec(handle, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? SQLITE_DONE : code;
}

// A statement that reads every column of a table.
constexpr std::pair<const char*, const char*> kTables[] = {
    {"api_keys", "SELECT id, access_level, secret, user_id, date_expiry, comment FROM api_keys"},
    {"events_completion",
     "SELECT id, date_created, user_id, api_key_id, model, prompt_n, completion_n"
     " FROM events_completion"},
};

// The files of the original's later versions, which have this schema version too: ours go beside.
constexpr const char* kCountOriginals =
    "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('api_key', "
    "'event_oneoff')";

// How many of our tables are there; their columns are looked at too. SQLITE_DONE or an error.
int count_tables(sqlite3* handle, size_t& tables, std::string& problem) {
  for (const auto& [name, columns] : kTables) {
    SqliteStatement table(handle, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1");
    table.bind(1, name);
    int step = table.step();
    if (step == SQLITE_DONE) continue;
    if (step != SQLITE_ROW) return step;
    ++tables;
    step = SqliteStatement(handle, columns).step();
    if (is_busy(step)) return step;
    if (step == SQLITE_ROW || step == SQLITE_DONE) continue;
    problem = fmt::format("it is an SQLite file of another program: its table {}: {}", name,
                          sqlite3_errmsg(handle));
  }
  return SQLITE_DONE;
}

// What the file is, from reading alone: others' files stay as they are. SQLITE_DONE, or why it
// could not be read. `problem`: why it cannot be ours. A table with other columns shows here and
// not in the middle of a request.
int look(sqlite3* handle, std::string& problem, bool& has_schema) {
  int64_t version = 0, entries = 0;
  {
    SqliteStatement query(handle,
                          "SELECT user_version, (SELECT count(*) FROM sqlite_master)"
                          " FROM pragma_user_version");
    if (const int step = query.step(); step != SQLITE_ROW) return step;
    version = query.number(0);
    entries = query.number(1);
  }
  size_t tables = 0;
  if (const int code = count_tables(handle, tables, problem); code != SQLITE_DONE) return code;
  has_schema = tables == std::size(kTables);
  if (tables > 0 && version > kSchemaVersion) {  // whatever its columns are by then
    problem = fmt::format(
        "it has schema version {}, of a newer llm-billing-proxy; this one knows version {}: "
        "upgrade, or name another file in db.uri",
        version, kSchemaVersion);
  }
  if (!problem.empty()) return SQLITE_DONE;
  if (tables == 0 && entries > 0) {
    SqliteStatement originals(handle, kCountOriginals);
    if (const int step = originals.step(); step != SQLITE_ROW) return step;
    if (version != kSchemaVersion || originals.number(0) != 2) {
      problem = "it is an SQLite file of another program";
    }
  } else if (version != kSchemaVersion && (version != 0 || entries > 0)) {
    problem = fmt::format("it has schema version {}, this program knows version {}", version,
                          kSchemaVersion);
  }
  return SQLITE_DONE;
}

// In one transaction, and only where nobody else has done it meanwhile. The caller closes a handle
// on which this failed, and so rolls it back.
int create_schema(sqlite3* handle, std::string& problem) {
  int code = execute(handle, "BEGIN IMMEDIATE");
  bool has_schema = false;
  if (code == SQLITE_DONE) code = look(handle, problem, has_schema);
  if (code != SQLITE_DONE || !problem.empty()) return code;
  code = execute(handle, kSchema);
  return code == SQLITE_DONE ? execute(handle, "COMMIT") : code;
}

int set_journal(sqlite3* handle) {
  const int code = execute(handle, "PRAGMA synchronous = FULL");
  if (code != SQLITE_DONE) return code;
  SqliteStatement journal(handle, "PRAGMA journal_mode = TRUNCATE");
  if (const int step = journal.step(); step != SQLITE_ROW) return step;
  // It stays what it was while another program uses the file in WAL mode.
  return journal.text(0) == "truncate" ? SQLITE_DONE : SQLITE_BUSY;
}

int prepare(sqlite3* handle, std::string& problem) {
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, kBusyTimeoutMs);
  bool has_schema = false;
  int code = look(handle, problem, has_schema);
  if (code != SQLITE_DONE || !problem.empty()) return code;
  code = set_journal(handle);
  return code == SQLITE_DONE && !has_schema ? create_schema(handle, problem) : code;
}

// Two connections to one file, or why there are none.
struct Opened {
  std::array<SqliteHandle, 2> handles;
  std::string problem;
  bool is_busy = false;  // another program holds the file: it may be free later
};

Opened open_file(const std::string& path) {
  Opened opened;
  for (SqliteHandle& handle : opened.handles) {
    sqlite3* raw = nullptr;
    int code =
        sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
    handle.reset(raw);
    if (code == SQLITE_OK) code = prepare(raw, opened.problem);
    opened.is_busy = is_busy(code);
    if (opened.is_busy) {
      opened.problem = fmt::format("another program holds it: {}", sqlite3_errstr(code));
    } else if (code != SQLITE_DONE && opened.problem.empty()) {
      opened.problem = raw ? sqlite3_errmsg(raw) : "out of memory";
    }
    if (!opened.problem.empty()) break;
  }
  return opened;
}

class SqliteDatabase final : public Database {
 public:
  explicit SqliteDatabase(std::string path) : path_(std::move(path)) {}

  // "" when the file is open or busy, in which case each call tries again. Else why it can never
  // be.
  std::string open();

  KeyLookup find_key(std::string_view secret_hex, std::string_view access_level,
                     WallMs now) override;
  BatchResult write_events(std::span<const Event> events) override;
  Result<std::vector<Stored>> find_events(std::span<const Event> events) override;
  Result<std::string> create_key(const NewKey& key) override;
  Result<std::vector<KeyRecord>> list_keys() override;
  Result<bool> set_key_expiry(std::string_view id, std::optional<WallMs> when) override;
  Result<bool> delete_key(std::string_view id) override;
  std::string identity() const override {
    return "sqlite://" + std::filesystem::path(path_).lexically_normal().native();
  }
  std::string check() override;

 private:
  template <class Work>
  int run(Connection& connection, Work&& work) {
    if (!is_open_) open_again();
    return connection.run(std::forward<Work>(work));
  }
  void open_again();
  Error unavailable(Connection& connection) {
    return {.status = kUnavailableStatus,
            .message = fmt::format("{}: {}", path_, connection.error())};
  }

  const std::string path_;
  std::mutex opening_;  // held by the one thread that tries
  std::atomic<bool> is_open_{false};
  Connection reader_;
  Connection writer_;
  ObjectIdMint mint_;
};

std::string SqliteDatabase::open() {
  Opened opened = open_file(path_);
  if (opened.problem.empty()) {
    reader_.open(std::move(opened.handles[0]));
    writer_.open(std::move(opened.handles[1]));
    is_open_ = true;
    return "";
  }
  reader_.set_problem(opened.problem);
  writer_.set_problem(opened.problem);
  return opened.is_busy ? "" : opened.problem;
}

// The other threads do not queue behind the one that tries.
void SqliteDatabase::open_again() {
  const std::unique_lock lock(opening_, std::try_to_lock);
  if (!lock) return;
  for (int i = 0; i < kTriesMax && !is_open_; ++i) {
    if (!open().empty()) return;
  }
}

KeyLookup judge(const SqliteStatement& row, WallMs now) {
  using State = KeyLookup::State;
  const std::optional<std::string> id = row.text(0), user = row.text(1), expiry = row.text(2);
  if (!id) return {.state = State::kUnusable, .detail = "a row of api_keys has no id"};
  if (!user || user->empty()) {
    return {.state = State::kUnusable, .detail = fmt::format("key {}: no user_id", *id)};
  }
  if (!is_utf8(*user)) {  // who reads the events could not read this one
    return {.state = State::kUnusable, .detail = fmt::format("key {}: user_id is no text", *id)};
  }
  KeyLookup found{.state = State::kFound};
  found.key.id = *id;
  found.key.user_id.text = *user;
  if (expiry) {
    found.key.expires = parse_utc(*expiry);
    if (!found.key.expires) {
      return {.state = State::kUnusable,
              .detail = fmt::format("key {}: date_expiry is no ISO 8601 time", *id)};
    }
  }
  if (found.key.is_expired(now)) return {.state = State::kUnknown};
  return found;
}

KeyLookup SqliteDatabase::find_key(std::string_view secret_hex, std::string_view access_level,
                                   WallMs now) {
  KeyLookup found;
  const int code = run(reader_, [&](sqlite3* handle) {
    SqliteStatement query(handle,
                          "SELECT id, user_id, date_expiry FROM api_keys"
                          " WHERE secret = ?1 AND access_level = ?2");
    query.bind(1, secret_hex);
    query.bind(2, access_level);
    const int step = query.step();
    if (step == SQLITE_ROW) {
      found = judge(query, now);
      return SQLITE_DONE;
    }
    found = {.state = KeyLookup::State::kUnknown};
    return step;
  });
  if (code == SQLITE_DONE) return found;
  return {.state = KeyLookup::State::kUnavailable, .detail = unavailable(reader_).message};
}

// SQLITE_ROW: the stored event is equal; SQLITE_DONE: another one is; else nobody knows.
int compare_stored(sqlite3* handle, const Event& event, const std::string& date) {
  SqliteStatement stored(handle,
                         "SELECT 1 FROM events_completion WHERE id = ?1 AND date_created = ?2 AND"
                         " user_id = ?3 AND api_key_id = ?4 AND model = ?5 AND prompt_n = ?6 AND"
                         " completion_n = ?7");
  const std::string id = event.id.hex();
  stored.bind(1, id);
  stored.bind(2, date);
  stored.bind(3, event.user_id.text);
  stored.bind(4, event.api_key_id);
  stored.bind(5, event.model);
  stored.bind(6, event.prompt_n);
  stored.bind(7, event.completion_n);
  return stored.step();
}

// A constraint or trigger that an operator has added does not take this event: that is final, and
// must not hold up the others. A trigger may have taken the whole transaction back; what was in it
// comes again.
bool refuse(sqlite3* handle, size_t place, size_t size, BatchResult& result) {
  result.detail = sqlite3_errmsg(handle);
  const bool has_transaction = sqlite3_get_autocommit(handle) == 0;
  if (!has_transaction) result.deliveries.assign(size, Delivery::kRetry);
  result.deliveries.resize(std::max(result.deliveries.size(), place + 1));
  result.deliveries[place] = Delivery::kRefused;
  return has_transaction;
}

// Inside a transaction, which is then to be committed. SQLITE_DONE; SQLITE_CONSTRAINT: it was taken
// back, and `result` stands; or why the batch as a whole must come again.
int insert_events(sqlite3* handle, std::span<const Event> events, BatchResult& result) {
  SqliteStatement insert(
      handle,
      "INSERT INTO events_completion(id, date_created, user_id, api_key_id, model,"
      " prompt_n, completion_n) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)"
      " ON CONFLICT(id) DO NOTHING");
  for (size_t i = 0; i < events.size(); ++i) {
    const Event& event = events[i];
    const std::string id = event.id.hex(), date = format_utc(event.date_created);
    insert.bind(1, id);
    insert.bind(2, date);
    insert.bind(3, event.user_id.text);
    insert.bind(4, event.api_key_id);
    insert.bind(5, event.model);
    insert.bind(6, event.prompt_n);
    insert.bind(7, event.completion_n);
    int code = insert.step();
    const bool is_new = code == SQLITE_DONE && sqlite3_changes(handle) == 1;
    if ((code & 0xff) == SQLITE_CONSTRAINT) {
      if (!refuse(handle, i, events.size(), result)) return SQLITE_CONSTRAINT;
      insert.reset();
      continue;
    }
    insert.reset();
    if (code == SQLITE_DONE && !is_new) code = compare_stored(handle, event, date);
    if (code != SQLITE_DONE && code != SQLITE_ROW) return code;
    const bool is_equal = is_new || code == SQLITE_ROW;
    result.deliveries.push_back(is_equal ? Delivery::kDelivered : Delivery::kRefused);
    if (!is_equal) result.detail = "another event is stored under its id";
  }
  return SQLITE_DONE;
}

BatchResult SqliteDatabase::write_events(std::span<const Event> events) {
  BatchResult result;
  const int code = run(writer_, [&](sqlite3* handle) {
    result = {};
    int step = execute(handle, "BEGIN IMMEDIATE");
    if (step == SQLITE_DONE) step = insert_events(handle, events, result);
    return step == SQLITE_DONE ? execute(handle, "COMMIT") : step;
  });
  if (code == SQLITE_DONE || code == SQLITE_CONSTRAINT) return result;
  return {std::vector<Delivery>(events.size(), Delivery::kRetry), unavailable(writer_).message};
}

// In one read each, so that a writer gets in between.
int find_stored(sqlite3* handle, std::span<const Event> events, std::vector<Stored>& stored) {
  for (const Event& event : events) {
    int code = compare_stored(handle, event, format_utc(event.date_created));
    if (code == SQLITE_ROW) {
      stored.push_back(Stored::kEqual);
      continue;
    }
    if (code != SQLITE_DONE) return code;
    SqliteStatement other(handle, "SELECT 1 FROM events_completion WHERE id = ?1");
    const std::string id = event.id.hex();
    other.bind(1, id);
    code = other.step();
    if (code != SQLITE_DONE && code != SQLITE_ROW) return code;
    stored.push_back(code == SQLITE_ROW ? Stored::kDifferent : Stored::kAbsent);
  }
  return SQLITE_DONE;
}

Result<std::vector<Stored>> SqliteDatabase::find_events(std::span<const Event> events) {
  std::vector<Stored> stored;
  const int code = run(reader_, [&](sqlite3* handle) {
    stored.clear();
    return find_stored(handle, events, stored);
  });
  if (code == SQLITE_DONE) return stored;
  return unavailable(reader_);
}

Result<std::string> SqliteDatabase::create_key(const NewKey& key) {
  const std::string id = mint_.mint(wall_now_ms()).hex();
  const std::string expires = key.expires ? format_utc(*key.expires) : "";
  const int code = run(writer_, [&](sqlite3* handle) {
    SqliteStatement insert(handle,
                           "INSERT INTO api_keys(id, access_level, secret, user_id, date_expiry,"
                           " comment) VALUES(?1, ?2, ?3, ?4, ?5, ?6)");
    insert.bind(1, id);
    insert.bind(2, key.access_level);
    insert.bind(3, key.secret_hex);
    insert.bind(4, key.user_id);
    if (key.expires) insert.bind(5, expires);
    if (!key.comment.empty()) insert.bind(6, key.comment);
    return insert.step();
  });
  if (code == SQLITE_DONE) return id;
  if ((code & 0xff) == SQLITE_CONSTRAINT) {
    return Error{.status = 409, .message = "a key with this hash exists already"};
  }
  return unavailable(writer_);
}

Result<std::vector<KeyRecord>> SqliteDatabase::list_keys() {
  std::vector<KeyRecord> keys;
  const int code = run(reader_, [&](sqlite3* handle) {
    keys.clear();
    SqliteStatement query(handle,
                          "SELECT id, access_level, user_id, date_expiry, comment FROM api_keys"
                          " ORDER BY id");
    int step = query.step();
    for (; step == SQLITE_ROW; step = query.step()) {
      const std::optional<std::string> expiry = query.text(3);
      const std::optional<WallMs> expires = expiry ? parse_utc(*expiry) : std::nullopt;
      const std::string user = query.text(2).value_or("");
      keys.push_back({.id = query.text(0).value_or(""),
                      .access_level = query.text(1).value_or(""),
                      .user_id = is_utf8(user) ? user : "",
                      .expires = expires,
                      .comment = query.text(4).value_or(""),
                      .has_odd_expiry = expiry && !expires});
    }
    return step;
  });
  if (code == SQLITE_DONE) return keys;
  return unavailable(reader_);
}

// The key with the id ?1 as it stands; if there is none, ?2.
constexpr const char* kIsKey = "id = coalesce((SELECT id FROM api_keys WHERE id = ?1), ?2)";

// An ObjectId may be written in capitals; here it is text.
std::string in_small_letters(std::string_view id) {
  const auto object_id = ObjectId::from_hex(id);
  return object_id ? object_id->hex() : std::string(id);
}

Result<bool> SqliteDatabase::set_key_expiry(std::string_view id, std::optional<WallMs> when) {
  const std::string text = when ? format_utc(*when) : "";
  const std::string plain_id = in_small_letters(id);
  bool is_there = false;
  const int code = run(writer_, [&](sqlite3* handle) {
    SqliteStatement update(handle,
                           fmt::format("UPDATE api_keys SET date_expiry = ?3 WHERE {}", kIsKey));
    update.bind(1, id);
    update.bind(2, plain_id);
    if (when) update.bind(3, text);
    const int step = update.step();
    is_there = sqlite3_changes(handle) > 0;
    return step;
  });
  if (code == SQLITE_DONE) return is_there;
  return unavailable(writer_);
}

Result<bool> SqliteDatabase::delete_key(std::string_view id) {
  const std::string plain_id = in_small_letters(id);
  bool is_there = false;
  const int code = run(writer_, [&](sqlite3* handle) {
    SqliteStatement remove(handle, fmt::format("DELETE FROM api_keys WHERE {}", kIsKey));
    remove.bind(1, id);
    remove.bind(2, plain_id);
    const int step = remove.step();
    is_there = sqlite3_changes(handle) > 0;
    return step;
  });
  if (code == SQLITE_DONE) return is_there;
  return unavailable(writer_);
}

std::string SqliteDatabase::check() {
  const int code = run(reader_, [](sqlite3* handle) {
    SqliteStatement query(handle, "SELECT count(*) FROM api_keys");
    return query.step() == SQLITE_ROW ? query.step() : sqlite3_errcode(handle);
  });
  return code == SQLITE_DONE ? "" : unavailable(reader_).message;
}

Error cannot_open(const std::string& path, std::string_view why) {
  return {.status = kUnavailableStatus, .message = fmt::format("cannot open {}: {}", path, why)};
}

// The file 0600 and missing directories 0700: it says who uses which key. "" or why not.
std::string create_file(const std::filesystem::path& path) {
  std::filesystem::path directory;
  for (const auto& part : path.parent_path()) {
    directory /= part;
    if (mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST || errno == EISDIR) continue;
    const int reason = errno;
    std::error_code ignored;  // a read-only or foreign parent that is there is none of our business
    if (std::filesystem::is_directory(directory, ignored)) continue;
    return fmt::format("cannot create {}: {}", directory.native(), errno_text(reason));
  }
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return errno_text(errno);
  close(file);
  return "";
}

}  // namespace

Result<std::unique_ptr<Database>> open_sqlite(const std::string& path) {
  if (path.empty()) return cannot_open("sqlite://", "a path must follow");
  // Absolute, so that ":memory:" and the like are plain names.
  std::error_code failed;
  const std::filesystem::path absolute = std::filesystem::absolute(path, failed);
  if (failed) return cannot_open(path, failed.message());
  const std::string& name = absolute.native();
  if (const std::string problem = create_file(absolute); !problem.empty()) {
    return cannot_open(name, problem);
  }
  auto database = std::make_unique<SqliteDatabase>(name);
  if (const std::string problem = database->open(); !problem.empty()) {
    return cannot_open(name, problem);
  }
  return std::unique_ptr<Database>(std::move(database));
}

}  // namespace llmproxy
