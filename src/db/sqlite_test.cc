// What is SQLite's alone: the file and its schema, odd rows that others wrote, a file held by
// another.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "base/digest.h"
#include "db/open.h"
#include "db/schema.h"
#include "db/sqlite_statement.h"
#include "db/test_uri.h"

namespace llmproxy {
namespace {

using State = KeyLookup::State;

constexpr WallMs kNow = 1'795'435'200'000;  // 2026-11-23T12:00:00Z

mode_t mode_of(const std::string& path) {
  struct stat about {};
  return stat(path.c_str(), &about) == 0 ? about.st_mode & 0777 : 0;
}

class SqliteTest : public testing::Test {
 protected:
  // What another program does to the file.
  SqliteHandle other() {
    sqlite3* raw = nullptr;
    sqlite3_open(file_.path().c_str(), &raw);
    return SqliteHandle(raw);
  }
  void run(const std::string& sql) {
    char* error = nullptr;
    ASSERT_EQ(sqlite3_exec(other().get(), sql.c_str(), nullptr, nullptr, &error), SQLITE_OK)
        << error;
  }
  std::string ask(const std::string& sql) {
    const SqliteHandle handle = other();
    SqliteStatement query(handle.get(), sql);
    return query.step() == SQLITE_ROW ? query.text(0).value_or("NULL") : "no row";
  }
  std::string bytes() {
    std::ifstream stream(file_.path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  std::unique_ptr<Database> open() {
    auto opened = open_database(file_.uri());
    EXPECT_TRUE(opened) << opened.error().message;
    return opened ? std::move(*opened) : nullptr;
  }
  std::string refusal(const std::string& uri) {
    const auto opened = open_database(uri);
    return opened ? "opened" : opened.error().message;
  }

  TemporarySqlite file_;
};

TEST_F(SqliteTest, CreatesDirectoriesAndFileForTheOwnerAlone) {
  const std::string directory = file_.directory() / "a";
  ASSERT_TRUE(open_database("sqlite://" + directory + "/b/c.db"));
  EXPECT_EQ(mode_of(directory), 0700U);
  EXPECT_EQ(mode_of(directory + "/b"), 0700U);
  EXPECT_EQ(mode_of(directory + "/b/c.db"), 0600U);
}

TEST_F(SqliteTest, HasTheSchemaOthersRead) {
  open();
  EXPECT_EQ(ask("PRAGMA user_version"), "1");
  const auto columns = [&](const std::string& table) {
    return ask(
        "SELECT group_concat(name || ' ' || type || iif(\"notnull\", ' NOT NULL', '') ||"
        " iif(pk, ' KEY', ''), ', ') FROM pragma_table_info('" +
        table + "')");
  };
  EXPECT_EQ(columns("api_keys"),
            "id TEXT KEY, access_level TEXT NOT NULL, secret TEXT NOT NULL, user_id TEXT NOT NULL, "
            "date_expiry TEXT, comment TEXT");
  EXPECT_EQ(columns("events_completion"),
            "id TEXT KEY, date_created TEXT NOT NULL, user_id TEXT NOT NULL, "
            "api_key_id TEXT NOT NULL, model TEXT NOT NULL, prompt_n INTEGER NOT NULL, "
            "completion_n INTEGER NOT NULL");
  EXPECT_EQ(ask("SELECT \"unique\" FROM pragma_index_list('api_keys') WHERE origin = 'u'"), "1");
}

TEST_F(SqliteTest, WritesAnEventAsDocumented) {
  Event event{.id = *ObjectId::from_hex("507f1f77bcf86cd799439011"),
              .date_created = kNow + 7,
              .user_id = {.text = "user2"},
              .api_key_id = "key",
              .model = "m",
              .prompt_n = 2'147'483'648,
              .completion_n = 8};
  open()->write_events({&event, 1});
  EXPECT_EQ(
      ask("SELECT concat_all FROM (SELECT id || '|' || date_created || '|' || user_id || '|' ||"
          " api_key_id || '|' || model || '|' || prompt_n || '|' || completion_n AS concat_all"
          " FROM events_completion)"),
      "507f1f77bcf86cd799439011|2026-11-23T12:00:00.007Z|user2|key|m|2147483648|8");
  EXPECT_EQ(ask("SELECT typeof(prompt_n) || typeof(date_created) FROM events_completion"),
            "integertext");
}

TEST_F(SqliteTest, ComparesExpiryAsTimeInBothSpellings) {
  const auto database = open();
  const struct {
    const char* expiry;
    State state;
  } cases[] = {
      {"NULL", State::kFound},
      {"'2026-11-23T12:00:00.001Z'", State::kFound},
      {"'2026-11-23T12:00:00.000Z'", State::kUnknown},
      {"'2026-11-23T00:00:01+00:00'", State::kUnknown},
      {"'2026-11-23 00:00:01'", State::kUnknown},
      {"'2026-11-23 12:00:01'", State::kFound},
      {"'2026-11-23T12:30:00+01:00'", State::kUnknown},
      {"'2026-11-24'", State::kFound},
      {"'never'", State::kUnusable},
      {"''", State::kUnusable},
      {"1795435201", State::kUnusable},
  };
  for (const auto& one : cases) {
    run(std::string("REPLACE INTO api_keys VALUES('k1', 'COMPLETION', 'hash', 'user', ") +
        one.expiry + ", NULL)");
    const KeyLookup found = database->find_key("hash", "COMPLETION", kNow);
    EXPECT_EQ(found.state, one.state) << one.expiry << " " << found.detail;
    if (one.state == State::kUnusable) {
      EXPECT_NE(found.detail.find("k1"), std::string::npos) << found.detail;
    }
  }
}

TEST_F(SqliteTest, AUserWhoIsEmptyIsNone) {
  const auto database = open();
  run("INSERT INTO api_keys VALUES('k1', 'COMPLETION', 'hash', '', NULL, NULL)");
  const KeyLookup found = database->find_key("hash", "COMPLETION", kNow);
  EXPECT_EQ(found.state, State::kUnusable);
  EXPECT_NE(found.detail.find("k1"), std::string::npos) << found.detail;
}

// Files that it must not take for its own stay as they are, to the byte.
TEST_F(SqliteTest, RefusesWhatIsNotItsOwnAndLeavesIt) {
  const struct {
    const char* sql;
    const char* problem;
  } cases[] = {
      {"CREATE TABLE bookmarks(url TEXT)", "another program"},
      {"CREATE TABLE bookmarks(url TEXT); PRAGMA user_version = 1", "another program"},
      {"CREATE TABLE bookmarks(url TEXT); PRAGMA user_version = 7", "another program"},
      {"CREATE TABLE api_key(id TEXT); PRAGMA user_version = 1", "another program"},
      {"PRAGMA user_version = 2", "schema version 2"},
      {"CREATE TABLE api_keys(a)", "another program: its table api_keys: no such column: id"},
      {"CREATE TABLE api_keys(id TEXT, hash TEXT); PRAGMA user_version = 1", "access_level"},
      {"CREATE TABLE events_completion(id TEXT); PRAGMA user_version = 1", "date_created"},
  };
  for (const auto& one : cases) {
    for (const char* journal : {"DELETE", "PERSIST", "WAL"}) {
      std::filesystem::remove(file_.path());
      run("PRAGMA journal_mode = " + std::string(journal) + ";" + one.sql);
      const std::string before = bytes();
      EXPECT_NE(refusal(file_.uri()).find(one.problem), std::string::npos)
          << one.sql << ": " << refusal(file_.uri());
      EXPECT_EQ(bytes(), before) << one.sql << " " << journal;
    }
  }
}

TEST_F(SqliteTest, RefusesALaterVersionOfItself) {
  open();
  run("PRAGMA user_version = 2");
  const auto expect_advice = [&] {
    const std::string said = refusal(file_.uri());
    for (const char* part :
         {"schema version 2, of a newer llm-billing-proxy", "version 1", "upgrade"})
      EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  expect_advice();
  run("ALTER TABLE api_keys RENAME COLUMN comment TO note");
  expect_advice();
}

// Others may have written ids in capitals: those are found as they stand, and before any other.
TEST_F(SqliteTest, AnIdIsFoundAsItStandsBeforeInSmallLetters) {
  const auto database = open();
  const std::string small = "66fd1d1de3a0c3eaae1b0cff", capital = "66FD1D1DE3A0C3EAAE1B0CFF";
  run("INSERT INTO api_keys VALUES('" + small + "', 'COMPLETION', 'h1', 'u', NULL, NULL);" +
      "INSERT INTO api_keys VALUES('" + capital + "', 'COMPLETION', 'h2', 'u', NULL, NULL)");
  EXPECT_TRUE(*database->set_key_expiry(capital, kNow));
  EXPECT_EQ(ask("SELECT id FROM api_keys WHERE date_expiry IS NOT NULL"), capital);
  EXPECT_TRUE(*database->delete_key(capital));
  EXPECT_EQ(ask("SELECT group_concat(id) FROM api_keys"), small);
  EXPECT_TRUE(*database->delete_key(capital));
  EXPECT_FALSE(*database->delete_key(capital));
  run("INSERT INTO api_keys VALUES('" + capital + "', 'COMPLETION', 'h2', 'u', NULL, NULL)");
  EXPECT_FALSE(*database->delete_key(small)) << "capitals are not guessed";
}

TEST_F(SqliteTest, AnEmptyFileWithItsVersionIsItsOwn) {
  run("PRAGMA user_version = 1");
  EXPECT_NE(open(), nullptr);
  EXPECT_EQ(ask("SELECT count(*) FROM sqlite_master WHERE type = 'table'"), "2");
}

TEST_F(SqliteTest, AddsItsTablesBesideThoseOfTheOriginal) {
  run("CREATE TABLE api_key(id TEXT PRIMARY KEY, secret BLOB);"
      "CREATE TABLE event_oneoff(id INTEGER PRIMARY KEY, created TEXT); PRAGMA user_version = 1");
  EXPECT_NE(open(), nullptr);
  EXPECT_EQ(ask("SELECT count(*) FROM sqlite_master WHERE type = 'table'"), "4");
}

TEST_F(SqliteTest, NamesAFileThatCannotBe) {
  std::ofstream(file_.path()) << "this is a text, long enough to be looked at as a database header";
  EXPECT_NE(refusal(file_.uri()).find(file_.path()), std::string::npos);
  EXPECT_NE(refusal("sqlite:///proc/no/such.db").find("/proc/no"), std::string::npos);
  EXPECT_NE(refusal("sqlite://" + file_.directory().native()).find("cannot open"),
            std::string::npos);
  EXPECT_NE(refusal("sqlite://").find("path"), std::string::npos);
  EXPECT_NE(refusal("postgres://host/db").find("sqlite://"), std::string::npos);
}

TEST_F(SqliteTest, NamesADirectoryThatItMayNotMake) {
  const std::string parent = file_.directory() / "parent";
  std::filesystem::create_directory(parent);
  std::filesystem::permissions(file_.directory(), std::filesystem::perms(0755));
  std::filesystem::permissions(parent, std::filesystem::perms(0555));
  const bool is_root = geteuid() == 0;  // root may write everywhere
  ASSERT_TRUE(!is_root || seteuid(65534) == 0);
  const std::string problem = refusal("sqlite://" + parent + "/sub/c.db");
  ASSERT_TRUE(!is_root || seteuid(0) == 0);
  EXPECT_EQ(problem, "cannot open " + parent + "/sub/c.db: cannot create " + parent +
                         "/sub: Permission denied");
}

TEST_F(SqliteTest, JournalIsTruncatedAndWalIsLeft) {
  { open(); }
  run("PRAGMA journal_mode = WAL");
  const auto database = open();
  const Event event{};
  ASSERT_EQ(database->write_events({&event, 1}).deliveries, std::vector{Delivery::kDelivered});
  EXPECT_FALSE(std::filesystem::exists(file_.path() + "-wal"));
  ASSERT_TRUE(std::filesystem::exists(file_.path() + "-journal"));
  EXPECT_EQ(std::filesystem::file_size(file_.path() + "-journal"), 0U);
}

TEST_F(SqliteTest, AFileHeldByAnotherProvesNothingAndPasses) {
  const auto database = open();
  const SqliteHandle holder = other();
  ASSERT_EQ(sqlite3_exec(holder.get(), "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr), SQLITE_OK);
  const Event event{};
  const BatchResult held = database->write_events({&event, 1});
  EXPECT_EQ(held.deliveries, std::vector{Delivery::kRetry});
  EXPECT_NE(held.detail.find("locked"), std::string::npos) << held.detail;
  EXPECT_EQ(database->find_key("hash", "COMPLETION", kNow).state, State::kUnavailable);
  sqlite3_exec(holder.get(), "COMMIT", nullptr, nullptr, nullptr);
  EXPECT_EQ(database->write_events({&event, 1}).deliveries, std::vector{Delivery::kDelivered});
  EXPECT_EQ(database->find_key("hash", "COMPLETION", kNow).state, State::kUnknown);
}

// Without tables, with them, and in WAL mode.
TEST_F(SqliteTest, AFileHeldByAnotherIsOpenedOnceItIsFree) {
  for (const char* before : {"", "PRAGMA journal_mode = DELETE", "PRAGMA journal_mode = WAL"}) {
    std::filesystem::remove(file_.path());
    if (*before != '\0') open();
    run(before);
    SqliteHandle holder = other();
    ASSERT_EQ(sqlite3_exec(holder.get(), "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr), SQLITE_OK);
    const auto database = open();
    ASSERT_NE(database, nullptr);
    EXPECT_EQ(database->check(), file_.path() + ": another program holds it: database is locked");
    holder.reset();
    EXPECT_EQ(database->check(), "");
    const Event event{};
    EXPECT_EQ(database->write_events({&event, 1}).deliveries, std::vector{Delivery::kDelivered});
  }
}

TEST_F(SqliteTest, AHeldFileThatWasNeverOpenedProvesNothing) {
  const SqliteHandle holder = other();
  ASSERT_EQ(sqlite3_exec(holder.get(), "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr), SQLITE_OK);
  const auto database = open();
  ASSERT_NE(database, nullptr);
  const Event event{};
  EXPECT_EQ(database->write_events({&event, 1}).deliveries, std::vector{Delivery::kRetry});
  EXPECT_EQ(database->find_key("hash", "COMPLETION", kNow).state, State::kUnavailable);
}

TEST_F(SqliteTest, AHeldFileThatTurnsOutToBeAnothersStaysUnavailable) {
  SqliteHandle holder = other();
  ASSERT_EQ(sqlite3_exec(holder.get(), "BEGIN EXCLUSIVE; CREATE TABLE bookmarks(url TEXT)", nullptr,
                         nullptr, nullptr),
            SQLITE_OK);
  const auto database = open();
  ASSERT_NE(database, nullptr);
  ASSERT_EQ(sqlite3_exec(holder.get(), "COMMIT", nullptr, nullptr, nullptr), SQLITE_OK);
  EXPECT_EQ(database->check(), file_.path() + ": it is an SQLite file of another program");
  EXPECT_EQ(ask("SELECT count(*) FROM sqlite_master"), "1");
}

TEST_F(SqliteTest, AnUnreadableStoreRetriesTheWholeBatch) {
  const auto database = open();
  run("DROP TABLE events_completion");
  const Event events[2] = {};
  const BatchResult result = database->write_events(events);
  EXPECT_EQ(result.deliveries, std::vector(2, Delivery::kRetry));
  EXPECT_NE(result.detail.find("events_completion"), std::string::npos) << result.detail;
}

TEST_F(SqliteTest, WhatAnOperatorsTriggerOrConstraintRefusesHoldsUpNoOther) {
  const auto database = open();
  ObjectIdMint mint;
  const auto events = [&] {
    std::vector<Event> three(3);
    for (Event& event : three) event.id = mint.mint(0);
    three[1].model = "refused";
    return three;
  };
  using enum Delivery;
  const auto trigger = [&](const char* how) {
    run("DROP TRIGGER IF EXISTS judge");
    run(std::string("CREATE TRIGGER judge BEFORE INSERT ON events_completion WHEN NEW.model = "
                    "'refused' BEGIN SELECT RAISE(") +
        how + ", 'no such model'); END");
  };
  for (const char* how : {"ABORT", "FAIL"}) {
    trigger(how);
    const BatchResult result = database->write_events(events());
    EXPECT_EQ(result.deliveries, (std::vector{kDelivered, kRefused, kDelivered})) << how;
    EXPECT_NE(result.detail.find("no such model"), std::string::npos) << result.detail;
  }
  EXPECT_EQ(ask("SELECT count(*) FROM events_completion"), "4");

  trigger("ROLLBACK");  // takes the others of its batch with it
  EXPECT_EQ(database->write_events(events()).deliveries, (std::vector{kRetry, kRefused, kRetry}));
  EXPECT_EQ(ask("SELECT count(*) FROM events_completion"), "4");

  run("DROP TRIGGER judge");
  run("CREATE UNIQUE INDEX one ON events_completion(model) WHERE model = 'refused'");
  EXPECT_EQ(database->write_events(events()).deliveries, std::vector(3, kDelivered));
  EXPECT_EQ(database->write_events(events()).deliveries,
            (std::vector{kDelivered, kRefused, kDelivered}));
}

// The working directory of the tests is the top of the source tree.
TEST_F(SqliteTest, SampleKeysFitTheSchema) {
  std::ifstream sample("sample.sql");
  std::stringstream text;
  text << sample.rdbuf();
  ASSERT_FALSE(text.str().empty());
  run(text.str());
  TemporarySqlite fresh;
  ASSERT_TRUE(open_database(fresh.uri()));
  const auto database = open();
  const std::string columns =
      "SELECT group_concat(m.name || ' ' || c.name || c.type || c.\"notnull\" || c.pk) FROM"
      " sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'";
  const std::string of_sample = ask(columns);
  sqlite3* raw = nullptr;
  sqlite3_open(fresh.path().c_str(), &raw);
  const SqliteHandle handle(raw);
  SqliteStatement query(raw, columns);
  ASSERT_EQ(query.step(), SQLITE_ROW);
  EXPECT_EQ(of_sample, query.text(0));

  const auto state = [&](const char* token) {
    const Sha256 digest = sha256(token);
    return database->find_key(to_hex(digest), "COMPLETION", wall_now_ms()).state;
  };
  EXPECT_EQ(state("token1"), State::kUnknown) << "expired on purpose";
  EXPECT_EQ(state("token2"), State::kFound);
  EXPECT_EQ(state("token3"), State::kFound);
}

}  // namespace
}  // namespace llmproxy
