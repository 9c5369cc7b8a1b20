// The key store over a scripted database. Nothing sleeps: times are either 0, or so long that a
// test that depended on them would fail by its patience; what must not wait is seen to end without
// suspending.
#include "proxy/key_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "billing/record.h"
#include "billing/test_database.h"
#include "net/loop.h"

namespace llmproxy {
namespace {

using State = KeyStore::Answer::State;
using Millis = Milliseconds;

constexpr std::chrono::seconds kPatience{20};
constexpr Millis kLong{3'600'000};

// Answers as told; look-ups wait while it hangs.
class ScriptedDatabase final : public TestDatabase {
 public:
  KeyLookup find_key(std::string_view secret_hex, std::string_view access_level, WallMs) override {
    std::unique_lock lock(mutex_);
    const std::string secret(secret_hex);
    ++asked_[secret];
    ++asked_in_all_;
    last_level_ = access_level;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !is_hanging_ && !hanging_.contains(secret); });
    KeyLookup found;
    if (is_down_) {
      found.detail = "no server";
      return found;
    }
    found.state = KeyLookup::State::kUnknown;
    const auto known = keys_.find(secret);
    if (known == keys_.end()) return found;
    return known->second;
  }

  void set(const std::string& token, KeyLookup found) {
    const std::lock_guard lock(mutex_);
    keys_[hex(token)] = std::move(found);
  }
  void add(const std::string& token, const std::string& user,
           std::optional<WallMs> expires = std::nullopt) {
    KeyLookup found;
    found.state = KeyLookup::State::kFound;
    found.key.id = "id of " + token;
    found.key.user_id.text = user;
    found.key.expires = expires;
    set(token, std::move(found));
  }
  void remove(const std::string& token) {
    const std::lock_guard lock(mutex_);
    keys_.erase(hex(token));
  }
  void go_down(bool is_down = true) {
    const std::lock_guard lock(mutex_);
    is_down_ = is_down;
  }
  void hang(bool is_hanging = true) {
    const std::lock_guard lock(mutex_);
    is_hanging_ = is_hanging;
    changed_.notify_all();
  }
  void hang_for(const std::string& token) {
    const std::lock_guard lock(mutex_);
    hanging_.insert(hex(token));
  }
  void hang_for_none() {
    const std::lock_guard lock(mutex_);
    hanging_.clear();
    changed_.notify_all();
  }
  int asked(const std::string& token) {
    const std::lock_guard lock(mutex_);
    return asked_[hex(token)];
  }
  int asked() {
    const std::lock_guard lock(mutex_);
    return asked_in_all_;
  }
  std::string last_level() {
    const std::lock_guard lock(mutex_);
    return last_level_;
  }
  void wait_for_asked(int count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return asked_in_all_ >= count; }));
  }

 private:
  static std::string hex(const std::string& token) { return to_hex(sha256(token)); }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, KeyLookup> keys_;
  std::map<std::string, int> asked_;
  std::set<std::string> hanging_;
  int asked_in_all_ = 0;
  bool is_down_ = false;
  bool is_hanging_ = false;
  std::string last_level_;
};

struct Found {
  KeyStore::Answer answer;
  bool has_waited = false;
};

// A loop on a thread of its own, as a server has one. It outlives the store.
class LoopThread {
 public:
  LoopThread() : thread_([this] { loop_.run(); }) {}
  ~LoopThread() {
    loop_.stop();
    thread_.join();
  }
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  std::future<Found> find(KeyStore& keys, const std::string& token) {
    auto question = std::make_unique<Question>(loop_, keys, sha256(token));
    std::future<Found> found = question->found.get_future();
    loop_.post(*question.release());
    return found;
  }

 private:
  struct Question final : net::Posted {
    Question(net::Loop& its_loop, KeyStore& its_keys, Sha256 its_digest)
        : loop(its_loop), keys(its_keys), digest(its_digest) {}
    void run() override { net::spawn(ask(std::unique_ptr<Question>(this))); }
    static net::Task<void> ask(std::unique_ptr<Question> question) {
      Found result;
      const uint64_t round = question->loop.round();
      result.answer = co_await question->keys.find(question->loop, question->digest);
      result.has_waited = question->loop.round() != round;
      question->found.set_value(std::move(result));
    }
    net::Loop& loop;
    KeyStore& keys;
    const Sha256 digest;
    std::promise<Found> found;
  };

  net::Loop loop_;
  std::thread thread_;
};

class NullLog {
 public:
  NullLog() : log(null_.fd) {}

 private:
  struct Null {
    ~Null() { close(fd); }
    const int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
  };
  const Null null_;  // closed after the log's end

 public:
  Log log;
};

class KeyStoreTest : public testing::Test {
 protected:
  KeyStoreTest() {
    config.key_ttl = kLong;
    config.key_unknown_ttl = kLong;
    config.key_stale_max = kLong;
  }
  ~KeyStoreTest() override {
    database->hang(false);
    database->hang_for_none();
  }
  void start() { keys = std::make_unique<KeyStore>(database, log.log, config, waits); }

  // From now on every cached answer is old.
  void age() {
    config.key_ttl = config.key_unknown_ttl = Millis(0);
    keys->apply(config);
  }
  std::future<Found> ask(const std::string& token) { return loop.find(*keys, token); }
  static Found get(std::future<Found> found) {
    if (found.wait_for(kPatience) == std::future_status::ready) return found.get();
    ADD_FAILURE() << "no answer";
    return {};
  }
  Found find(const std::string& token) { return get(ask(token)); }
  static std::string user_of(const Found& found) {
    return found.answer.key == nullptr ? "" : found.answer.key->user_id.text;
  }
  void expect(const std::string& token, State state, bool has_waited) {
    const Found found = find(token);
    EXPECT_EQ(found.answer.state, state) << token;
    EXPECT_EQ(found.has_waited, has_waited) << token;
    EXPECT_EQ(found.answer.key != nullptr, state == State::kKnown) << token;
  }

  const std::shared_ptr<ScriptedDatabase> database = std::make_shared<ScriptedDatabase>();
  NullLog log;
  Config config;
  KeyWaits waits{.stale = kLong, .first = kLong, .rest = kLong, .stop = kLong};
  LoopThread loop;
  std::unique_ptr<KeyStore> keys;
};

TEST_F(KeyStoreTest, CachedHitAsksOnce) {
  database->add("a", "anna");
  start();
  Found found = find("a");
  EXPECT_EQ(found.answer.state, State::kKnown);
  EXPECT_EQ(user_of(found), "anna");
  EXPECT_EQ(found.answer.key->id, "id of a");
  for (int i = 0; i < 10; ++i) expect("a", State::kKnown, false);
  EXPECT_EQ(database->asked(), 1);
}

TEST_F(KeyStoreTest, ManyWaitersShareOneLookUp) {
  database->add("a", "anna");
  database->hang();
  start();
  LoopThread other_server;
  std::vector<std::future<Found>> waiting;
  for (int i = 0; i < 50; ++i) {
    waiting.push_back(ask("a"));
    waiting.push_back(other_server.find(*keys, "a"));
  }
  database->wait_for_asked(1);
  database->hang(false);
  for (auto& one : waiting) EXPECT_EQ(user_of(get(std::move(one))), "anna");
  EXPECT_EQ(database->asked(), 1);
  keys.reset();  // before the other loop
}

TEST_F(KeyStoreTest, UnknownIsCachedForItsTtl) {
  start();
  expect("x", State::kRefused, true);
  for (int i = 0; i < 10; ++i) expect("x", State::kRefused, false);
  EXPECT_EQ(database->asked(), 1);
  age();
  expect("x", State::kRefused, true);
  EXPECT_EQ(database->asked(), 2);
  database->add("x", "xaver");
  expect("x", State::kKnown, true);
}

TEST_F(KeyStoreTest, CachesAreBoundedAndApart) {
  constexpr int kMany = 1000;
  config.keys_max = config.keys_unknown_max = 32;  // of 16 shards: 3 each
  database->add("good", "anna");
  start();
  expect("good", State::kKnown, true);
  for (int i = 0; i < kMany; ++i) find("wrong " + std::to_string(i));
  expect("good", State::kKnown, false);  // no flood of wrong ones pushes it out
  expect("wrong 0", State::kRefused, true);
  EXPECT_EQ(database->asked("wrong 0"), 2);
  int kept = 0;
  for (int i = 1; i < kMany; ++i) {
    const std::string token = "wrong " + std::to_string(i);
    database->hang();  // what is cached is answered all the same
    std::future<Found> found = ask(token);
    database->hang(false);
    kept += get(std::move(found)).has_waited ? 0 : 1;
  }
  EXPECT_LE(kept, 3 * 16);
  for (int i = 0; i < kMany; ++i) {
    database->add("key " + std::to_string(i), "many");
    find("key " + std::to_string(i));
  }
  expect("good", State::kKnown, true);  // the oldest goes first
}

TEST_F(KeyStoreTest, ExpiryIsEnforcedOnCachedKeys) {
  const WallMs expires = wall_now_ms() + 20;
  database->add("short", "anna", expires);
  database->add("long", "anna", wall_now_ms() + 3'600'000);
  start();
  const Found before = find("short");
  const bool was_early = wall_now_ms() < expires;
  EXPECT_TRUE(!was_early || before.answer.state == State::kKnown);
  expect("long", State::kKnown, true);
  while (wall_now_ms() < expires) std::this_thread::yield();
  expect("short", State::kRefused, false);
  EXPECT_EQ(database->asked("short"), 1);
  expect("long", State::kKnown, false);
}

TEST_F(KeyStoreTest, AKeyWithoutUserIsRefused) {
  KeyLookup unusable;
  unusable.state = KeyLookup::State::kUnusable;
  unusable.detail = "key 1 has no user_id";
  database->set("a", unusable);
  start();
  expect("a", State::kRefused, true);
  expect("a", State::kRefused, false);
}

// It could not be billed: no record of the ledger would hold its names.
TEST_F(KeyStoreTest, AKeyWithTooLongNamesIsRefused) {
  KeyLookup found;
  found.state = KeyLookup::State::kFound;
  found.key.id = "key";
  found.key.user_id.text.assign(kKeyBytesMax - 3, 'u');
  database->set("fits", found);
  found.key.user_id.bytes = "b";
  database->set("too long", found);
  start();
  expect("fits", State::kKnown, true);
  expect("too long", State::kRefused, true);
  expect("too long", State::kRefused, false);
}

TEST_F(KeyStoreTest, ARefreshTakesOverWhatTheDatabaseSays) {
  database->add("changed", "before");
  database->add("revoked", "before");
  start();
  find("changed");
  find("revoked");
  age();
  database->add("changed", "after");
  database->remove("revoked");
  EXPECT_EQ(user_of(find("changed")), "after");
  expect("revoked", State::kRefused, true);
  database->go_down();
  EXPECT_EQ(user_of(find("changed")), "after");
  expect("revoked", State::kUnavailable, false);  // no old answer brings it back
}

TEST_F(KeyStoreTest, DownAKnownKeyGoesOnAndTheBreakerKeepsItFromWaiting) {
  database->add("a", "anna");
  database->add("b", "berta");
  start();
  find("a");
  find("b");
  age();
  database->go_down();
  expect("a", State::kKnown, true);  // asks, and is told that nobody can say
  const int asked = database->asked();
  for (int i = 0; i < 10; ++i) {
    expect("a", State::kKnown, false);
    expect("b", State::kKnown, false);
    expect("new", State::kUnavailable, false);
  }
  EXPECT_EQ(database->asked(), asked);  // it rests
}

TEST_F(KeyStoreTest, HangingAKnownKeyWaitsOnceAndNewOnesStillWait) {
  waits.stale = Millis(3);
  database->add("a", "anna");
  database->add("b", "berta");
  database->add("new", "nora");
  start();
  find("a");
  find("b");
  age();
  database->hang();
  expect("a", State::kKnown, true);
  for (int i = 0; i < 10; ++i) {
    expect("a", State::kKnown, false);
    expect("b", State::kKnown, false);
  }
  // Slow is not down: a key that nobody has seen yet is waited for.
  std::future<Found> found = ask("new");
  database->wait_for_asked(4);
  database->hang(false);
  EXPECT_EQ(user_of(get(std::move(found))), "nora");
}

TEST_F(KeyStoreTest, HangingAnUnseenKeyIsUnavailableAndTheNextAtOnce) {
  waits.first = Millis(100);  // long enough for the first look-up on a busy machine
  database->add("a", "anna");
  start();
  expect("a", State::kKnown, true);
  age();
  database->hang();
  expect("new", State::kUnavailable, true);
  expect("new", State::kUnavailable, false);
  expect("newer", State::kUnavailable, false);
  expect("a", State::kKnown, false);
}

TEST_F(KeyStoreTest, RecoversAfterItsRest) {
  waits.rest = Millis(0);
  database->add("a", "anna");
  database->add("b", "berta");
  start();
  find("a");
  age();
  database->go_down();
  expect("b", State::kUnavailable, true);
  expect("b", State::kUnavailable, true);  // one at a time tries
  database->go_down(false);
  expect("b", State::kKnown, true);
  database->add("a", "another");
  EXPECT_EQ(user_of(find("a")), "another");
}

TEST_F(KeyStoreTest, RecoversByAKnownKeyThatDoesNotWait) {
  waits.rest = Millis(0);
  database->add("a", "anna");
  database->add("b", "berta");
  start();
  find("a");
  age();
  database->go_down();
  expect("b", State::kUnavailable, true);
  const int asked = database->asked();
  database->go_down(false);
  expect("a", State::kKnown, false);
  database->wait_for_asked(asked + 1);
  while (!find("a").has_waited) std::this_thread::yield();  // up again: refreshed before it serves
  expect("b", State::kKnown, true);
}

TEST_F(KeyStoreTest, WhileOneTriesTheOthersDoNot) {
  waits.rest = Millis(0);
  start();
  database->go_down();
  expect("a", State::kUnavailable, true);
  database->hang();
  std::future<Found> trying = ask("a");
  database->wait_for_asked(2);
  expect("b", State::kUnavailable, false);
  expect("a", State::kUnavailable, false);
  database->hang(false);
  EXPECT_EQ(get(std::move(trying)).answer.state, State::kUnavailable);
}

TEST_F(KeyStoreTest, OldAnswersServeNoLongerThanTheirBound) {
  database->add("a", "anna");
  start();
  find("a");
  age();
  database->go_down();
  config.key_stale_max = Millis(0);
  keys->apply(config);
  expect("a", State::kUnavailable, true);
  expect("a", State::kUnavailable, false);
}

TEST_F(KeyStoreTest, RefreshesAreServedWhileFirstLookUpsHang) {
  database->add("a", "before");
  start();
  find("a");
  age();
  std::vector<std::future<Found>> hanging;
  for (int i = 0; i < 20; ++i) {
    const std::string token = "slow " + std::to_string(i);
    database->hang_for(token);
    hanging.push_back(ask(token));
  }
  database->wait_for_asked(1 + static_cast<int>(KeyStore::kThreads) - 1);
  database->add("a", "after");
  EXPECT_EQ(user_of(find("a")), "after");
  database->hang_for_none();
  for (auto& one : hanging) EXPECT_EQ(get(std::move(one)).answer.state, State::kRefused);
}

TEST_F(KeyStoreTest, LookUpsAreBounded) {
  config.lookups_max = 5;
  database->hang();
  start();
  std::vector<std::future<Found>> waiting;
  for (int i = 0; i < 5; ++i) waiting.push_back(ask("token " + std::to_string(i)));
  expect("one too many", State::kUnavailable, false);
  std::future<Found> sharing = ask("token 0");
  database->hang(false);
  for (auto& one : waiting) EXPECT_EQ(get(std::move(one)).answer.state, State::kRefused);
  EXPECT_EQ(get(std::move(sharing)).answer.state, State::kRefused);
  expect("one too many", State::kRefused, true);  // there is room again
}

TEST_F(KeyStoreTest, AnotherAccessLevelAsksAgain) {
  config.access_level = "ONE";
  database->add("a", "anna");
  database->add("late", "anna");
  start();
  find("a");
  EXPECT_EQ(database->last_level(), "ONE");
  database->hang();
  std::future<Found> under_way = ask("late");
  database->wait_for_asked(2);
  config.access_level = "TWO";
  keys->apply(config);
  database->hang(false);
  get(std::move(under_way));
  database->remove("a");
  database->remove("late");
  expect("a", State::kRefused, true);
  EXPECT_EQ(database->last_level(), "TWO");
  expect("late", State::kRefused, true);  // what was asked under the old one is not kept
  keys->apply(config);                    // the same again empties nothing
  expect("a", State::kRefused, false);
}

TEST_F(KeyStoreTest, ALookUpForTheOldAccessLevelIsNotJoined) {
  config.access_level = "ONE";
  database->add("a", "anna");
  start();
  database->hang();
  std::future<Found> before = ask("a");
  database->wait_for_asked(1);
  config.access_level = "TWO";
  keys->apply(config);
  std::future<Found> after = ask("a");
  database->wait_for_asked(2);
  EXPECT_EQ(database->last_level(), "TWO");
  std::future<Found> joining = ask("a");
  database->hang(false);
  EXPECT_EQ(user_of(get(std::move(before))), "anna");
  EXPECT_EQ(user_of(get(std::move(after))), "anna");
  EXPECT_EQ(user_of(get(std::move(joining))), "anna");
  expect("a", State::kKnown, false);
  EXPECT_EQ(database->asked("a"), 2);
}

// The end: bounded, whatever the database does.
TEST(KeyStoreEnd, LeavesAHangingCallBehind) {
  auto database = std::make_shared<ScriptedDatabase>();
  ScriptedDatabase& script = *database;
  const std::weak_ptr<ScriptedDatabase> life = database;
  script.hang();
  {
    NullLog log;
    Config config;
    LoopThread loop;
    KeyStore keys(std::move(database), log.log, config,
                  {.stale = kLong, .first = Millis(2), .rest = kLong, .stop = Millis(2)});
    std::future<Found> found = loop.find(keys, "a");
    script.wait_for_asked(1);
    EXPECT_EQ(found.get().answer.state, State::kUnavailable);
  }  // log, loop and store are gone; the call is not
  ASSERT_FALSE(life.expired());
  script.hang(false);
  const MonotonicTime limit = monotonic_now() + kPatience;
  while (!life.expired() && monotonic_now() < limit) std::this_thread::yield();
  EXPECT_TRUE(life.expired());
}

TEST(KeyStoreEnd, WaitsForACallThatIsAnswered) {
  auto database = std::make_shared<ScriptedDatabase>();
  ScriptedDatabase& script = *database;
  const std::weak_ptr<ScriptedDatabase> life = database;
  script.hang();
  NullLog log;
  Config config;
  LoopThread loop;
  std::optional<KeyStore> keys(std::in_place, std::move(database), log.log, config,
                               KeyWaits{.first = Millis(2), .stop = kLong});
  std::future<Found> found = loop.find(*keys, "a");
  script.wait_for_asked(1);
  EXPECT_EQ(found.get().answer.state, State::kUnavailable);
  std::thread opener([held = life.lock(), &script] { script.hang(false); });
  keys.reset();
  opener.join();
  EXPECT_TRUE(life.expired());  // no thread has it any more
}

TEST(KeyStoreEnd, NothingAskedEndsAtOnce) {
  NullLog log;
  const KeyStore keys(std::make_shared<ScriptedDatabase>(), log.log, Config{}, {.stop = kLong});
}

// Many servers, every kind of answer, settings that change: for the thread sanitizer.
TEST(KeyStoreThreads, AnswersAreRightUnderLoad) {
  constexpr int kTokens = 20, kRounds = 200;
  auto database = std::make_shared<ScriptedDatabase>();
  for (int i = 0; i < kTokens; i += 2) {
    database->add("token " + std::to_string(i), "user " + std::to_string(i));
  }
  NullLog log;
  Config config;
  config.key_ttl = config.key_unknown_ttl = Millis(0);
  config.keys_max = config.keys_unknown_max = 1;
  std::array<LoopThread, 3> servers;
  {
    KeyStore keys(database, log.log, config,
                  {.stale = Millis(1), .first = kLong, .rest = Millis(0), .stop = kLong});
    std::vector<std::future<Found>> found;
    for (int i = 0; i < kRounds * kTokens; ++i) {
      const int token = i % kTokens;
      const auto server = static_cast<size_t>(i / 7) % servers.size();
      found.push_back(servers[server].find(keys, "token " + std::to_string(token)));
      config.key_ttl = Millis(i % 3);
      if (i % 50 == 0) keys.apply(config);
    }
    for (int i = 0; i < kRounds * kTokens; ++i) {
      const auto one = static_cast<size_t>(i);
      ASSERT_EQ(found[one].wait_for(kPatience), std::future_status::ready);
      const KeyStore::Answer answer = found[one].get().answer;
      const int token = i % kTokens;
      ASSERT_EQ(answer.state, token % 2 == 0 ? State::kKnown : State::kRefused);
      const std::string user = answer.key == nullptr ? "" : answer.key->user_id.text;
      ASSERT_EQ(user, token % 2 == 0 ? "user " + std::to_string(token) : "");
    }
  }
}

}  // namespace
}  // namespace llmproxy
