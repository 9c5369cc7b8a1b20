// The keys commands over a database in memory: what goes to stdout, what it stores, which exit
// code.
#include "cli/keys.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "base/digest.h"
#include "billing/test_database.h"

namespace llmproxy {
namespace {

constexpr WallMs kNow = 1'795'435'200'000;  // 2026-11-23T12:00:00Z

class MemoryDatabase final : public TestDatabase {
 public:
  struct Row {
    NewKey key;
    std::string id;
  };
  std::vector<Row> rows;
  bool is_down = false;

  Result<std::string> create_key(const NewKey& key) override {
    if (is_down) return down();
    for (const Row& row : rows) {
      if (row.key.secret_hex == key.secret_hex) return Error{.status = 409, .message = "exists"};
    }
    rows.push_back({key, "id" + std::to_string(rows.size() + 1)});
    return rows.back().id;
  }
  Result<std::vector<KeyRecord>> list_keys() override {
    if (is_down) return down();
    std::vector<KeyRecord> keys;
    for (const Row& row : rows) {
      keys.push_back(
          {row.id, row.key.access_level, row.key.user_id, row.key.expires, row.key.comment});
    }
    return keys;
  }
  Result<bool> set_key_expiry(std::string_view id, std::optional<WallMs> when) override {
    if (is_down) return down();
    for (Row& row : rows) {
      if (row.id == id) return row.key.expires = when, true;
    }
    return false;
  }
  Result<bool> delete_key(std::string_view id) override {
    if (is_down) return down();
    return std::erase_if(rows, [&](const Row& row) { return row.id == id; }) > 0;
  }

 private:
  static Error down() { return {.status = 503, .message = "does not answer"}; }
};

class KeysTest : public testing::Test {
 protected:
  int create(const KeysCreate& arguments) {
    return keys_create(database_, config_, arguments, out_, err_);
  }
  int expire(const std::string& id, const std::string& when) {
    return keys_expire(database_, config_, id, when, err_);
  }
  int revoke(const std::string& id) { return keys_revoke(database_, config_, id, err_); }
  std::string list(bool is_json) {
    std::ostringstream out;
    EXPECT_EQ(keys_list(database_, is_json, out, err_), 0);
    return out.str();
  }

  MemoryDatabase database_;
  Config config_;
  std::ostringstream out_, err_;
};

TEST_F(KeysTest, CreatePrintsTheTokenAloneAndStoresItsHash) {
  config_.access_level = "LLM";
  ASSERT_EQ(create({.user = "user 9", .comment = "c"}), 0);
  std::string token = out_.str();
  ASSERT_TRUE(token.ends_with('\n'));
  token.pop_back();
  EXPECT_EQ(token.size(), 86U);
  EXPECT_EQ(
      token.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
      std::string::npos);
  ASSERT_EQ(database_.rows.size(), 1U);
  const NewKey& key = database_.rows[0].key;
  EXPECT_EQ(key.secret_hex, to_hex(sha256(token)));
  EXPECT_EQ(key.access_level, "LLM");
  EXPECT_EQ(key.user_id, "user 9");
  EXPECT_EQ(key.comment, "c");
  EXPECT_FALSE(key.expires);
  EXPECT_EQ(err_.str().find(token), std::string::npos);
  EXPECT_NE(err_.str().find("id1"), std::string::npos);

  out_.str("");
  ASSERT_EQ(create({.user = "user 9"}), 0);
  EXPECT_NE(out_.str(), token + "\n");
}

TEST_F(KeysTest, CreateRegistersAKnownHashInLowerCase) {
  const std::string hash = to_hex(sha256("token2"));
  std::string upper = hash;
  std::transform(upper.begin(), upper.end(), upper.begin(), [](char c) {
    return c >= 'a' && c <= 'f' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  ASSERT_EQ(create({.user = "u", .hash = upper}), 0);
  EXPECT_EQ(out_.str(), "id1\n");
  EXPECT_EQ(database_.rows.at(0).key.secret_hex, hash);
  EXPECT_EQ(create({.user = "u", .hash = hash}), 1);
  EXPECT_NE(err_.str().find("exists"), std::string::npos);
  EXPECT_EQ(out_.str(), "id1\n");
}

TEST_F(KeysTest, CreateRefusesWhatItCannotRead) {
  const std::string hash = to_hex(sha256("token2"));
  for (const KeysCreate& arguments :
       std::vector<KeysCreate>{{.user = ""},
                               {.user = "a\nb"},
                               {.user = "a\xff"},
                               {.user = "u", .comment = "two\nlines"},
                               {.user = "u",
                               .comment = "\xc2\x9b"
                                          "31m"},
                               {.user = "u", .comment = "cut \xe2\x82"},
                               {.user = "u", .expires = "tomorrow"},
                               {.user = "u", .hash = "abc"},
                               {.user = "u", .hash = hash + "00"},
                               {.user = "u", .hash = hash.substr(1) + "g"}}) {
    EXPECT_EQ(create(arguments), 64)
        << arguments.user << arguments.comment << arguments.expires << arguments.hash.value_or("");
  }
  EXPECT_TRUE(database_.rows.empty());
  EXPECT_EQ(out_.str(), "");
}

TEST_F(KeysTest, AKeyThatNobodyWasToldOfIsWithdrawn) {
  out_.setstate(std::ios::badbit);
  EXPECT_EQ(create({.user = "u"}), 74);
  EXPECT_NE(err_.str().find("token"), std::string::npos);
  EXPECT_EQ(create({.user = "u", .hash = std::string(64, 'a')}), 74);
  EXPECT_TRUE(database_.rows.empty());
  EXPECT_NE(err_.str().find("withdrawn"), std::string::npos);
}

TEST_F(KeysTest, AListThatCannotBePrintedIsAnError) {
  std::ostringstream out;
  out.setstate(std::ios::badbit);
  EXPECT_EQ(keys_list(database_, false, out, err_), 74);
  EXPECT_EQ(keys_list(database_, true, out, err_), 74);
  EXPECT_NE(err_.str().find("printed"), std::string::npos);
}

TEST_F(KeysTest, ListsForPeople) {
  EXPECT_EQ(list(false), "ID  USER  ACCESS LEVEL  EXPIRES  COMMENT\n");
  create({.user = "Zażółć", .expires = "2026-11-23T12:00:00Z", .comment = "laptop"});
  create({.user = "u"});
  EXPECT_EQ(list(false),
            "ID   USER    ACCESS LEVEL  EXPIRES                   COMMENT\n"
            "id1  Zażółć  COMPLETION    2026-11-23T12:00:00.000Z  laptop\n"
            "id2  u       COMPLETION    never\n");
}

// What others wrote into the database.
TEST_F(KeysTest, ListsNoControlCharacters) {
  NewKey odd;
  odd.user_id =
      "two\nlines\xc2\x9b"
      "31m";
  odd.comment = "\x1b[m\x7f \xff \xc2\xa0.";
  database_.rows.push_back({odd, "id\xc2\x85"});
  EXPECT_EQ(list(false),
            "ID    USER            ACCESS LEVEL  EXPIRES  COMMENT\n"
            "id??  two?lines??31m                never    ?[m? ? \xc2\xa0.\n");
  EXPECT_EQ(list(true),
            "[\n  {\"id\":\"id\\u0085\",\"access_level\":\"\","
            "\"user_id\":\"two\\nlines\\u009b31m\",\"date_expiry\":null,"
            "\"comment\":\"\\u001b[m\x7f \xef\xbf\xbd \xc2\xa0.\"}\n]\n");
}

TEST_F(KeysTest, ListsForPrograms) {
  EXPECT_EQ(list(true), "[]\n");
  create({.user = "a\"b", .expires = "2026-11-23", .comment = "c"});
  create({.user = "u"});
  EXPECT_EQ(list(true),
            "[\n"
            "  {\"id\":\"id1\",\"access_level\":\"COMPLETION\",\"user_id\":\"a\\\"b\","
            "\"date_expiry\":\"2026-11-23T00:00:00.000Z\",\"comment\":\"c\"},\n"
            "  {\"id\":\"id2\",\"access_level\":\"COMPLETION\",\"user_id\":\"u\","
            "\"date_expiry\":null,\"comment\":null}\n"
            "]\n");
  for (const auto& row : database_.rows) {
    EXPECT_EQ(list(true).find(row.key.secret_hex), std::string::npos);
  }
}

TEST_F(KeysTest, ExpireAndRevoke) {
  create({.user = "u"});
  EXPECT_EQ(expire("id1", "2026-11-23T12:00:00Z"), 0);
  EXPECT_EQ(database_.rows[0].key.expires, kNow);
  EXPECT_EQ(expire("id1", "never"), 0);
  EXPECT_FALSE(database_.rows[0].key.expires);
  EXPECT_NE(err_.str().find("within 10 s"), std::string::npos) << err_.str();
  EXPECT_EQ(expire("id1", "soon"), 64);
  EXPECT_EQ(expire("id2", "now"), 1);
  EXPECT_EQ(revoke("id2"), 1);
  EXPECT_NE(err_.str().find("\"id2\""), std::string::npos) << err_.str();
  EXPECT_EQ(revoke("id1"), 0);
  EXPECT_TRUE(database_.rows.empty());
}

TEST_F(KeysTest, ADeadDatabaseHasItsOwnExitCode) {
  database_.is_down = true;
  std::ostringstream out;
  EXPECT_EQ(create({.user = "u"}), 69);
  EXPECT_EQ(keys_list(database_, true, out, err_), 69);
  EXPECT_EQ(expire("id1", "now"), 69);
  EXPECT_EQ(revoke("id1"), 69);
  EXPECT_EQ(out_.str() + out.str(), "");
  EXPECT_NE(err_.str().find("does not answer"), std::string::npos);
}

TEST(KeysWhen, Table) {
  const struct {
    const char* text;
    std::optional<WallMs> time;
  } good[] = {
      {"never", std::nullopt},
      {"now", kNow},
      {"+0s", kNow},
      {"+90s", kNow + 90'000},
      {"+15m", kNow + 900'000},
      {"+12h", kNow + 43'200'000},
      {"+30d", kNow + 2'592'000'000},
      {"+2w", kNow + 1'209'600'000},
      {"+36500d", kNow + 36'500 * int64_t{86'400'000}},
      {"2026-11-23", kNow - 43'200'000},
      {"2026-11-23 12:00:00", kNow},
      {"2026-11-23T13:00:00+01:00", kNow},
  };
  for (const auto& one : good) {
    const auto result = parse_when(one.text, kNow);
    ASSERT_TRUE(result) << one.text;
    EXPECT_EQ(*result, one.time) << one.text;
  }
  for (const char* bad :
       {"", "+", "+d", "30d", "+30", "+30y", "+-3d", "++3d", "+3.5d", "+ 3d", "+36501d",
        "+99999999999999999999d", "-3d", "Never", "tomorrow", "2026-13-01"}) {
    const auto result = parse_when(bad, kNow);
    ASSERT_FALSE(result) << bad;
    EXPECT_NE(result.error().message.find("+30d"), std::string::npos);
  }
}

}  // namespace
}  // namespace llmproxy
