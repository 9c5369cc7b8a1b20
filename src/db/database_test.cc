// The contract of billing/database.h, the same text over SQLite (a file of its own) and MongoDB
// (the server at TEST_MONGODB_URI). Writes only under ids and secrets of its own, so any server
// will do.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <thread>

#include "base/digest.h"
#include "db/open.h"
#include "db/test_uri.h"

namespace llmproxy {
namespace {

using enum Delivery;
using State = KeyLookup::State;

constexpr WallMs kNow = 1'790'000'000'000;

std::string fresh_secret() {
  Sha256 bytes{};
  random_bytes(bytes);
  return to_hex(bytes);
}

class DatabaseTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string uri = GetParam() == "mongo" ? test_mongodb_uri() : sqlite_.uri();
    ASSERT_NE(uri, "") << kHowToStartMongo;
    auto opened = open_database(uri);
    ASSERT_TRUE(opened) << opened.error().message;
    database_ = std::move(*opened);
  }
  NewKey key() const {
    return {.secret_hex = secret_,
            .access_level = "COMPLETION",
            .user_id = "user2",
            .expires = std::nullopt,
            .comment = "a comment"};
  }
  std::string create(const NewKey& key) {
    auto id = database_->create_key(key);
    EXPECT_TRUE(id) << id.error().message;
    return id ? *id : "";
  }
  KeyLookup find(WallMs now = kNow) { return database_->find_key(secret_, "COMPLETION", now); }
  std::optional<KeyRecord> listed(const std::string& id) {
    auto keys = database_->list_keys();
    EXPECT_TRUE(keys) << keys.error().message;
    const auto found = std::find_if(keys->begin(), keys->end(),
                                    [&](const KeyRecord& record) { return record.id == id; });
    return found == keys->end() ? std::nullopt : std::optional(*found);
  }
  Event event() {
    return {.id = mint_.mint(kNow),
            .date_created = kNow + 123,
            .user_id = {.text = "user2"},
            .api_key_id = "507f1f77bcf86cd799439011",
            .model = "llama31-70b",
            .prompt_n = 33,
            .completion_n = 8};
  }

  TemporarySqlite sqlite_;
  std::unique_ptr<Database> database_;
  const std::string secret_ = fresh_secret();
  ObjectIdMint mint_;
};

TEST_P(DatabaseTest, FindsAKeyByItsHash) {
  const std::string id = create(key());
  EXPECT_TRUE(ObjectId::from_hex(id)) << id;
  const KeyLookup found = find();
  ASSERT_EQ(found.state, State::kFound) << found.detail;
  EXPECT_EQ(found.key.id, id);
  EXPECT_EQ(found.key.user_id.text, "user2");
  EXPECT_EQ(found.key.user_id.bson_type, 0x02);
  EXPECT_FALSE(found.key.expires);
}

TEST_P(DatabaseTest, AnotherHashOrAccessLevelIsUnknown) {
  create(key());
  EXPECT_EQ(database_->find_key(fresh_secret(), "COMPLETION", kNow).state, State::kUnknown);
  EXPECT_EQ(database_->find_key(secret_, "LLM", kNow).state, State::kUnknown);
  EXPECT_EQ(database_->find_key(secret_.substr(1), "COMPLETION", kNow).state, State::kUnknown);
}

TEST_P(DatabaseTest, AKeyIsRefusedFromItsExpiryOn) {
  NewKey limited = key();
  limited.expires = kNow;
  create(limited);
  EXPECT_EQ(find(kNow - 1).state, State::kFound);
  EXPECT_EQ(find(kNow - 1).key.expires, kNow);
  EXPECT_EQ(find(kNow).state, State::kUnknown);
  EXPECT_EQ(find(kNow + 1).state, State::kUnknown);
}

TEST_P(DatabaseTest, AHashExistsOnce) {
  create(key());
  NewKey again = key();
  again.user_id = "somebody else";
  const auto second = database_->create_key(again);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().status, 409);
  EXPECT_NE(second.error().message.find("exists"), std::string::npos) << second.error().message;
  EXPECT_EQ(find().key.user_id.text, "user2");
}

TEST_P(DatabaseTest, ListsKeysWithoutSecrets) {
  NewKey limited = key();
  limited.expires = kNow;
  const std::string id = create(limited);
  const auto record = listed(id);
  ASSERT_TRUE(record);
  EXPECT_EQ(record->access_level, "COMPLETION");
  EXPECT_EQ(record->user_id, "user2");
  EXPECT_EQ(record->expires, kNow);
  EXPECT_EQ(record->comment, "a comment");
  const auto all = database_->list_keys();
  EXPECT_TRUE(std::is_sorted(all->begin(), all->end(),
                             [](const auto& a, const auto& b) { return a.id < b.id; }));
}

TEST_P(DatabaseTest, ExpiryCanBeSetAndTakenAway) {
  const std::string id = create(key());
  ASSERT_EQ(database_->set_key_expiry(id, kNow).value(), true);
  EXPECT_EQ(find().state, State::kUnknown);
  EXPECT_EQ(listed(id)->expires, kNow);
  ASSERT_EQ(database_->set_key_expiry(id, std::nullopt).value(), true);
  EXPECT_EQ(find().state, State::kFound);
  EXPECT_FALSE(listed(id)->expires);
  EXPECT_EQ(database_->set_key_expiry(mint_.mint(kNow).hex(), kNow).value(), false);
  EXPECT_EQ(database_->set_key_expiry("no id at all", kNow).value(), false);
}

TEST_P(DatabaseTest, ARevokedKeyIsGone) {
  const std::string id = create(key());
  EXPECT_EQ(database_->delete_key(id).value(), true);
  EXPECT_EQ(find().state, State::kUnknown);
  EXPECT_FALSE(listed(id));
  EXPECT_EQ(database_->delete_key(id).value(), false);
}

TEST_P(DatabaseTest, TheSameEventsAgainAreDeliveredAndNotTwice) {
  const std::vector<Event> events = {event(), event(), event()};
  const std::vector<Delivery> all(3, kDelivered);
  EXPECT_EQ(database_->write_events(events).deliveries, all);
  EXPECT_EQ(database_->write_events(events).deliveries, all) << "as after a lost reply";
  const std::vector<Event> mixed = {events[1], event(), events[0]};
  const BatchResult third = database_->write_events(mixed);
  EXPECT_EQ(third.deliveries, all) << third.detail;
}

TEST_P(DatabaseTest, AnotherEventUnderItsIdIsRefusedAndTheRestTaken) {
  const Event first = event();
  ASSERT_EQ(database_->write_events({&first, 1}).deliveries, std::vector{kDelivered});
  const auto change = [&](auto&& edit) {
    Event other = first;
    edit(other);
    return other;
  };
  const std::vector<Event> others = {
      change([](Event& e) { e.date_created += 1; }),
      change([](Event& e) { e.user_id.text = "user3"; }),
      change([](Event& e) { e.api_key_id = "507f1f77bcf86cd799439012"; }),
      change([](Event& e) { e.model = "llama31-8b"; }),
      change([](Event& e) { e.prompt_n += 1; }),
      change([](Event& e) { e.completion_n += 1; }),
  };
  for (const Event& other : others) {
    const std::vector<Event> batch = {event(), other, event()};
    const BatchResult result = database_->write_events(batch);
    EXPECT_EQ(result.deliveries, (std::vector{kDelivered, kRefused, kDelivered}));
    EXPECT_NE(result.detail.find("another event"), std::string::npos) << result.detail;
  }
  EXPECT_EQ(database_->write_events({&first, 1}).deliveries, std::vector{kDelivered})
      << "the first one stands";
}

TEST_P(DatabaseTest, TakesOddTextAndLargeCounts) {
  Event odd = event();
  odd.user_id.text = "Zażółć \"quoted\" \\ '$' .";
  odd.model = "$llama.3 'x' \xF0\x9F\xA6\x99";
  odd.prompt_n = 2'147'483'648;
  odd.completion_n = int64_t{1} << 53;
  for (int i = 0; i < 2; ++i) {
    const BatchResult result = database_->write_events({&odd, 1});
    EXPECT_EQ(result.deliveries, std::vector{kDelivered}) << result.detail;
  }
}

TEST_P(DatabaseTest, TakesAFullBatch) {
  std::vector<Event> events;
  for (size_t i = 0; i < Database::kBatchMax; ++i) events.push_back(event());
  const std::vector<Delivery> all(events.size(), kDelivered);
  EXPECT_EQ(database_->write_events(events).deliveries, all);
  EXPECT_EQ(database_->write_events(events).deliveries, all);
  EXPECT_TRUE(database_->write_events({}).deliveries.empty());
}

TEST_P(DatabaseTest, ManyThreadsAskAndWrite) {
  create(key());
  std::vector<std::thread> threads;
  std::atomic<int> found{0}, delivered{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) {
        if (find().state == State::kFound) ++found;
        const Event one = event();
        if (database_->write_events({&one, 1}).deliveries.front() == kDelivered) ++delivered;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(found, 20);
  EXPECT_EQ(delivered, 20);
}

TEST_P(DatabaseTest, SaysThatItAnswers) {
  EXPECT_EQ(database_->check(), "");
}

// The ledger compares it: the same for the same place, and nothing of a user or an option in it.
TEST_P(DatabaseTest, IsKnownByItsPlace) {
  std::string other = GetParam() == "mongo" ? test_mongodb_uri() : sqlite_.uri();
  const std::string identity = database_->identity();
  if (GetParam() == "mongo") {
    EXPECT_TRUE(identity.ends_with("/billing.events_completion")) << identity;
    const bool has_options = other.find('?') != std::string::npos;
    other += has_options ? "&appName=x" : other.ends_with('/') ? "?appName=x" : "/?appName=x";
  } else {
    EXPECT_EQ(identity, sqlite_.uri());
    other.insert(other.rfind('/'), "/.");
  }
  const auto opened = open_database(other);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ((*opened)->identity(), identity) << other;
}

INSTANTIATE_TEST_SUITE_P(Sqlite, DatabaseTest, testing::Values("sqlite"));
INSTANTIATE_TEST_SUITE_P(Mongo, DatabaseTest, testing::Values("mongo"));

}  // namespace
}  // namespace llmproxy
