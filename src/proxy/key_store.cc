// Cache, shared look-ups and breaker. An answer older than key_ttl is asked for again; if the
// database does not say within KeyWaits::stale, the old answer serves, up to key_stale_max.
#include "proxy/key_store.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/thread_name.h"
#include "billing/record.h"

namespace llmproxy {
namespace {

constexpr size_t kShards = 16;

using Answer = KeyStore::Answer;

uint64_t random_seed() {
  uint64_t seed = 0;
  random_bytes({reinterpret_cast<uint8_t*>(&seed), sizeof seed});
  return seed;
}

struct DigestHash {
  size_t operator()(const Sha256& digest) const {
    uint64_t word;
    std::memcpy(&word, digest.data() + 8, sizeof word);
    return static_cast<size_t>((word ^ seed) * 0x9E3779B97F4A7C15ull);
  }
  uint64_t seed = random_seed();  // nobody can make tokens that collide
};

struct Entry {
  std::shared_ptr<const Key> key;  // null: unknown
  MonotonicTime fetched;
};

struct Lookup {
  Sha256 digest;
  bool is_refresh = false;                            // of a key that was known before
  std::vector<std::shared_ptr<net::Notice>> waiting;  // guarded by the shard
  Answer answer;                                      // written before any notice is given
};

struct Shard {
  std::mutex mutex;  // guards all below
  std::unordered_map<Sha256, Entry, DigestHash> entries;
  std::unordered_map<Sha256, std::shared_ptr<Lookup>, DigestHash> lookups;
  std::deque<Sha256> known, unknown;  // in order of arrival, for eviction
};

enum class Health : uint8_t {
  kUp,
  kSlow,  // an old answer was waited for in vain: those that have one wait no more
  kDown,  // nobody waits
};

constexpr size_t kIdShownMax = 256;

Answer judge(const std::shared_ptr<const Key>& key) {
  Answer answer;
  const bool is_good = key != nullptr && !key->is_expired(wall_now_ms());
  answer.state = is_good ? Answer::State::kKnown : Answer::State::kRefused;
  if (is_good) answer.key = key;
  return answer;
}

}  // namespace

struct KeyStore::Cached {
  std::optional<Answer> answer;         // fresh
  std::shared_ptr<const Key> old;       // serves if the database does not answer
  std::shared_ptr<Lookup> lookup;       // to be waited for, if any
  std::shared_ptr<net::Notice> notice;  // of it
};

struct KeyStore::State {
  State(std::shared_ptr<Database> its_database, Log& its_log, const Config& config,
        KeyWaits its_waits)
      : database(std::move(its_database)),
        log(its_log),
        waits(its_waits),
        keys_max(config.keys_max / kShards + 1),
        keys_unknown_max(config.keys_unknown_max / kShards + 1),
        lookups_max(config.lookups_max) {}

  Cached ask(const Sha256& digest, net::Loop& loop);

  Shard& shard_of(const Sha256& digest) { return shards[digest[0] % kShards]; }
  bool is_fresh(const Entry& entry, MonotonicTime now) const;
  bool may_ask(bool is_refresh) const;
  void run(bool refreshes_only);
  std::shared_ptr<Lookup> enqueue(const Sha256& digest, bool is_refresh);
  void note_failure(Health seen, MonotonicTime now);
  void note_answer();
  void publish(Lookup& lookup, KeyLookup found, const std::string& asked_level);
  Answer read_answer(KeyLookup found);
  void remember(Shard& shard, const Sha256& digest, const Answer& answer);

  const std::shared_ptr<Database> database;
  Log& log;  // not touched once is_left
  const KeyWaits waits;
  const size_t keys_max, keys_unknown_max, lookups_max;  // the first two: per shard
  std::atomic<int64_t> ttl_ms{0}, unknown_ttl_ms{0}, stale_max_ms{0};
  std::array<Shard, kShards> shards;
  std::atomic<size_t> lookups{0};      // queued or under way
  std::atomic<size_t> firsts_open{0};  // those of keys not known before: at most lookups_max
  std::atomic<Health> health{Health::kUp};
  std::atomic<MonotonicTime::rep> rest_until{0};

  // Taken alone, or after a shard's.
  std::mutex mutex;                // guards all below
  std::condition_variable queued;  // the threads: there is work, or the end has come
  std::condition_variable ended;   // the destructor: a thread has ended, or is in the database
  std::deque<std::shared_ptr<Lookup>> refreshes, firsts;
  std::string access_level;
  size_t threads_running = kThreads;
  size_t threads_in_database = 0;
  bool is_stopping = false;
  bool is_left = false;
};

bool KeyStore::State::is_fresh(const Entry& entry, MonotonicTime now) const {
  return now - entry.fetched < Milliseconds(entry.key != nullptr ? ttl_ms : unknown_ttl_ms);
}

KeyStore::Cached KeyStore::State::ask(const Sha256& digest, net::Loop& loop) {
  Cached cached;
  Shard& shard = shard_of(digest);
  const std::lock_guard lock(shard.mutex);
  const auto entry = shard.entries.find(digest);
  if (entry != shard.entries.end()) {
    if (is_fresh(entry->second, loop.now())) {
      cached.answer = judge(entry->second.key);
      return cached;
    }
    const auto age = loop.now() - entry->second.fetched;
    if (age < Milliseconds(stale_max_ms)) cached.old = entry->second.key;
  }
  const bool is_refresh = cached.old != nullptr;
  bool may_wait = health == Health::kUp || (health == Health::kSlow && !is_refresh);
  std::shared_ptr<Lookup> lookup;
  const auto under_way = shard.lookups.find(digest);
  if (under_way != shard.lookups.end()) {
    lookup = under_way->second;
  } else if (may_ask(is_refresh)) {
    lookup = enqueue(digest, is_refresh);
    if (lookup != nullptr) shard.lookups.emplace(digest, lookup);
    may_wait |= !is_refresh;  // who tries first has no other answer
  }
  if (lookup == nullptr || !may_wait) return cached;
  cached.notice = net::Notice::make(loop);
  lookup->waiting.push_back(cached.notice);
  cached.lookup = std::move(lookup);
  return cached;
}

net::Step<KeyStore::Answer> KeyStore::find(net::Loop& loop, const Sha256& digest,
                                           net::Interrupt* interrupt) {
  Cached cached = state_->ask(digest, loop);
  if (cached.answer) return *std::move(cached.answer);
  return wait(loop, std::move(cached), interrupt);
}

net::Task<KeyStore::Answer> KeyStore::wait(net::Loop& loop, Cached cached,
                                           net::Interrupt* interrupt) {
  const bool has_old = cached.old != nullptr;
  if (cached.lookup != nullptr) {
    const Milliseconds patience = has_old ? state_->waits.stale : state_->waits.first;
    const bool is_answered = co_await cached.notice->wait(loop.now() + patience, interrupt);
    const bool is_given_up = interrupt != nullptr && interrupt->is_fired();
    if (!is_answered && !is_given_up) {
      state_->note_failure(has_old ? Health::kSlow : Health::kDown, loop.now());
    } else if (is_answered && cached.lookup->answer.state != Answer::State::kUnavailable) {
      co_return judge(cached.lookup->answer.key);
    }
  }
  if (has_old) co_return judge(cached.old);
  co_return Answer{};
}

// While the database does not answer, one look-up at a time tries, after a rest.
bool KeyStore::State::may_ask(bool is_refresh) const {
  const Health now = health;
  if (now == Health::kUp || (now == Health::kSlow && !is_refresh)) return true;
  return monotonic_now().time_since_epoch().count() >= rest_until && lookups == 0;
}

void KeyStore::State::note_failure(Health seen, MonotonicTime now) {
  rest_until = (now + waits.rest).time_since_epoch().count();
  if (seen == Health::kSlow) {
    Health up = Health::kUp;
    health.compare_exchange_strong(up, Health::kSlow);
  } else if (health.exchange(Health::kDown) != Health::kDown) {
    log.error("key look-ups: the database does not answer; keys seen before keep working");
  }
}

void KeyStore::State::note_answer() {
  if (health == Health::kUp) return;
  if (health.exchange(Health::kUp) == Health::kDown) {
    log.info("key look-ups: the database answers again");
  }
}

std::shared_ptr<Lookup> KeyStore::State::enqueue(const Sha256& digest, bool is_refresh) {
  if (!is_refresh && firsts_open.fetch_add(1) >= lookups_max) {
    --firsts_open;
    return nullptr;
  }
  ++lookups;
  auto lookup = std::make_shared<Lookup>();
  lookup->digest = digest;
  lookup->is_refresh = is_refresh;
  const std::lock_guard lock(mutex);
  (is_refresh ? refreshes : firsts).push_back(lookup);
  queued.notify_all();
  return lookup;
}

void KeyStore::State::run(bool refreshes_only) {
  std::unique_lock lock(mutex);
  for (;;) {
    queued.wait(lock, [&] {
      return is_stopping || !refreshes.empty() || (!refreshes_only && !firsts.empty());
    });
    if (is_stopping) break;
    auto& queue = refreshes.empty() ? firsts : refreshes;
    const std::shared_ptr<Lookup> lookup = std::move(queue.front());
    queue.pop_front();
    const std::string level = access_level;
    ++threads_in_database;
    lock.unlock();
    KeyLookup found = database->find_key(to_hex(lookup->digest), level, wall_now_ms());
    lock.lock();
    --threads_in_database;
    if (is_left) return;  // the log and the loops may be gone
    lock.unlock();
    publish(*lookup, std::move(found), level);
    lock.lock();
    if (is_stopping) break;
  }
  --threads_running;
  ended.notify_all();
}

void KeyStore::State::publish(Lookup& lookup, KeyLookup found, const std::string& asked_level) {
  if (found.state == KeyLookup::State::kUnavailable) {
    if (health != Health::kDown) log.error("key look-up failed: {}", found.detail);
    note_failure(Health::kDown, monotonic_now());
  } else {
    note_answer();
  }
  const Answer answer = read_answer(std::move(found));
  Shard& shard = shard_of(lookup.digest);
  const std::lock_guard lock(shard.mutex);
  lookup.answer = answer;
  if (answer.state != Answer::State::kUnavailable) {
    const std::lock_guard level_lock(mutex);
    if (access_level == asked_level) remember(shard, lookup.digest, answer);
  }
  // Before the notices: who is told must find that there is room again.
  --lookups;
  if (!lookup.is_refresh) --firsts_open;
  const auto own = shard.lookups.find(lookup.digest);  // perhaps another's, since apply()
  if (own != shard.lookups.end() && own->second.get() == &lookup) shard.lookups.erase(own);
  for (const auto& notice : lookup.waiting) notice->give();
  lookup.waiting.clear();
}

KeyStore::Answer KeyStore::State::read_answer(KeyLookup found) {
  Answer answer;
  if (found.state == KeyLookup::State::kFound && !fits_record(found.key)) {
    found.state = KeyLookup::State::kUnusable;
    found.detail = fmt::format("key {}: _id and user_id take more than {} bytes together",
                               std::string_view(found.key.id).substr(0, kIdShownMax), kKeyBytesMax);
  }
  switch (found.state) {
    case KeyLookup::State::kFound:
      answer.state = Answer::State::kKnown;
      answer.key = std::make_shared<const Key>(std::move(found.key));
      break;
    case KeyLookup::State::kUnusable:
      log.error("key refused: {}", found.detail);
      [[fallthrough]];
    case KeyLookup::State::kUnknown:
      answer.state = Answer::State::kRefused;
      break;
    case KeyLookup::State::kUnavailable:
      break;
  }
  return answer;
}

// Oldest out first, known and unknown keys apart: no flood of wrong tokens pushes out a good key.
void KeyStore::State::remember(Shard& shard, const Sha256& digest, const Answer& answer) {
  const auto [entry, is_new] = shard.entries.try_emplace(digest);
  const bool was_known = !is_new && entry->second.key != nullptr;
  const bool is_known = answer.key != nullptr;
  entry->second = {answer.key, monotonic_now()};
  if (!is_new && was_known == is_known) return;
  auto& order = is_known ? shard.known : shard.unknown;
  order.push_back(digest);
  if (order.size() <= (is_known ? keys_max : keys_unknown_max)) return;
  const auto oldest = shard.entries.find(order.front());
  if (oldest != shard.entries.end() && (oldest->second.key != nullptr) == is_known) {
    shard.entries.erase(oldest);
  }
  order.pop_front();
}

KeyStore::KeyStore(std::shared_ptr<Database> database, Log& log, const Config& config,
                   KeyWaits waits)
    : state_(std::make_shared<State>(std::move(database), log, config, waits)) {
  apply(config);
  for (size_t i = 0; i < kThreads; ++i) {
    threads_.emplace_back([state = state_, i] {
      name_thread("keys");
      state->run(i == 0);
    });
  }
}

KeyStore::KeyStore(Database& database, Log& log, const Config& config, KeyWaits waits)
    : KeyStore(std::shared_ptr<Database>(std::shared_ptr<void>(), &database), log, config, waits) {}

KeyStore::~KeyStore() {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  state.is_stopping = true;
  state.queued.notify_all();
  const MonotonicTime limit = monotonic_now() + state.waits.stop;
  state.ended.wait_until(lock, limit, [&] { return state.threads_running == 0; });
  // Those that are not in the database are about to end.
  state.ended.wait(lock, [&] { return state.threads_running == state.threads_in_database; });
  state.is_left = state.threads_running > 0;
  lock.unlock();
  for (std::thread& thread : threads_) state.is_left ? thread.detach() : thread.join();
}

void KeyStore::apply(const Config& config) {
  State& state = *state_;
  state.ttl_ms = config.key_ttl.count();
  state.unknown_ttl_ms = config.key_unknown_ttl.count();
  state.stale_max_ms = config.key_stale_max.count();
  {
    const std::lock_guard lock(state.mutex);
    if (std::exchange(state.access_level, config.access_level) == config.access_level) return;
  }
  for (Shard& shard : state.shards) {
    const std::lock_guard lock(shard.mutex);
    shard.entries.clear();
    shard.known.clear();
    shard.unknown.clear();
    shard.lookups.clear();  // nobody else joins what was asked for the old level
  }
}

}  // namespace llmproxy
