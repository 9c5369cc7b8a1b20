// The keys that were asked for lately, in front of the database: one cache for all servers, one
// look-up for all that wait for the same key, and a breaker, so that a dead database is not waited
// for. Any thread asks; threads of its own wait for the database.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "billing/database.h"
#include "billing/key.h"
#include "config/config.h"
#include "net/completion.h"

namespace llmproxy {

// How long a KeyStore waits for the database.
struct KeyWaits {
  Milliseconds stale{250};    // when an old answer is at hand
  Milliseconds first{5'000};  // when there is none
  Milliseconds rest{1'000};   // between two tries while it does not answer
  Milliseconds stop{1'000};   // at the end; then the calls under way are left behind
};

class KeyStore {
 public:
  static constexpr size_t kThreads = 4;  // one of them serves refreshes of known keys only

  struct Answer {
    enum class State : uint8_t {
      kKnown,
      kRefused,      // unknown, expired, revoked or unusable: the client cannot tell which
      kUnavailable,  // the database cannot be asked, or too many ask
    };
    State state = State::kUnavailable;
    std::shared_ptr<const Key> key{};
  };

  KeyStore(std::shared_ptr<Database> database, Log& log, const Config& config, KeyWaits waits = {});
  // Here the caller keeps `database` for as long as a call that was left behind may last.
  KeyStore(Database& database, Log& log, const Config& config, KeyWaits waits = {});
  // No find() may be under way. A call that the database does not answer in time is left behind: it
  // touches nothing but the database any more.
  ~KeyStore();
  KeyStore(const KeyStore&) = delete;
  KeyStore& operator=(const KeyStore&) = delete;

  // Takes the live settings of a reloaded config. Another access level empties the cache.
  void apply(const Config& config);

  // The key whose token has this digest: at once if it is in the cache. Else waits for the database
  // at most KeyWaits::first, and no longer than until `interrupt` is fired.
  net::Step<Answer> find(net::Loop& loop, const Sha256& digest,
                         net::Interrupt* interrupt = nullptr);

 private:
  struct Cached;  // what find() learns from the cache
  net::Task<Answer> wait(net::Loop& loop, Cached cached, net::Interrupt* interrupt);

  struct State;  // what the threads share with this object, and keep if they are left behind
  const std::shared_ptr<State> state_;
  std::vector<std::thread> threads_;
};

}  // namespace llmproxy
