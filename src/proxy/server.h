// One server: an event loop on a thread of its own with its connections, its backend pool and its
// view of the configuration. Servers share only what Parts names.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "base/log.h"
#include "billing/ledger.h"
#include "billing/object_id.h"
#include "config/config.h"
#include "http/head.h"
#include "net/backend_pool.h"
#include "net/buffer.h"
#include "net/lasting.h"
#include "net/listener.h"
#include "net/loop.h"
#include "net/worker.h"
#include "proxy/head_pool.h"
#include "proxy/key_store.h"
#include "proxy/memory_budget.h"
#include "proxy/metrics.h"

namespace llmproxy {

class Session;

// What all servers share. Built by main; outlives them.
struct Parts {
  Log& log;
  KeyStore& keys;
  Ledger& ledger;
  ObjectIdMint& ids;
  net::Resolver& resolver;
  net::Worker& worker;
  MemoryBudget& memory;
  std::atomic<size_t>& connections;  // open ones, all servers
};

class Server final : public net::Listener::Acceptor {
 public:
  // A connection that has not sent a request yet may do so for this long after draining began.
  static constexpr Milliseconds kDrainGrace{1'000};
  // Connections beyond connections_max that are told so at one time; more are closed without a
  // word.
  static constexpr size_t kRefusedMax = 256;
  // What no connection has needed for so long is given back to the system.
  static constexpr Milliseconds kTrim{1'000};
  static constexpr size_t kTrimBytesMin = size_t{1} << 20;  // gathered before that

  static constexpr Milliseconds kRefusalLines{1'000};  // between two lines that tell of them

  using Sessions = std::list<Session*, net::LastingAllocator<Session*>>;

  Server(Parts parts, std::shared_ptr<const Config> config, const net::ListenSocket& socket);
  ~Server();

  // The thread's body: serves until drained or aborted and the last session is gone.
  void run();

  // These three may be called from any thread. `then` runs on the server's thread.
  void reload(std::shared_ptr<const Config> config, std::function<void()> then);
  void drain();  // accept no more; finish what is in flight
  void abort();  // cut what is in flight; each still settles its outcome

  // The server's own thread only:
  const std::shared_ptr<const Config>& config() const { return config_; }
  bool is_draining() const { return is_draining_; }
  bool is_aborting() const { return is_aborting_; }
  Parts& parts() { return parts_; }
  net::Loop& loop() { return loop_; }
  net::BlockPool& blocks() { return blocks_; }
  net::BackendPool& backends() { return backends_; }
  HeadPool& heads() { return heads_; }
  // Empty, with room from the last one: of a reply that is being read, and gone with the next.
  http::ResponseHead& empty_reply_head() {
    reply_head_.clear();
    return reply_head_;
  }
  // Soon, for all that the ledger is told until then: see LedgerWake.
  void wake_ledger() { ledger_wake_.arm(); }
  Counters& counters() { return counters_; }
  const Counters& counters() const { return counters_; }

  Sessions::iterator enter(Session& session);
  void leave(Sessions::iterator place);

 private:
  void on_accept(int fd) override;
  void on_accept_error(int error) override;
  void tell(std::function<void()> message);
  void stop_if_empty();

  // Calls one of the server's functions.
  class Alarm final : public net::Timer {
   public:
    Alarm(net::Loop& loop, Server& server, void (Server::*function)())
        : Timer(loop), server_(server), function_(function) {}

   private:
    void on_deadline() override { (server_.*function_)(); }
    Server& server_;
    void (Server::*function_)();
  };
  // Wakes the ledger's writer once the loop has nothing else to do, or after a while.
  class LedgerWake final : net::Posted {
   public:
    static constexpr Milliseconds kDelayMax{1};
    LedgerWake(net::Loop& loop, Ledger& ledger) : loop_(loop), ledger_(ledger) {}
    void arm() {
      if (std::exchange(is_armed_, true)) return;
      limit_ = loop_.now() + kDelayMax;
      loop_.post(*this);
    }

   private:
    void run() override {
      if (loop_.is_busy() && loop_.now() < limit_) return loop_.post(*this);
      is_armed_ = false;
      ledger_.wake();
    }
    net::Loop& loop_;
    Ledger& ledger_;
    MonotonicTime limit_{};
    bool is_armed_ = false;
  };
  void drain_sessions(bool has_grace);
  void end_grace() { drain_sessions(false); }
  void refuse(int fd);
  void tell_refusals();
  void trim();

  Parts parts_;
  std::shared_ptr<const Config> config_;
  net::Loop loop_;
  net::BlockPool blocks_;
  net::BackendPool backends_;
  HeadPool heads_;
  http::ResponseHead reply_head_;
  std::optional<net::Listener> listener_;
  Sessions sessions_;
  Counters counters_;
  LedgerWake ledger_wake_;
  Alarm grace_;
  Alarm refusal_lines_;
  Alarm trim_;
  bool is_trimming_ = false;
  size_t trimmed_bytes_ = 0;     // freed, and not given back yet
  size_t refused_ = 0;           // of sessions_
  uint64_t refusals_ = 0;        // not told of yet
  std::string last_refusal_id_;  // of a reply
  bool is_telling_refusals_ = false;
  bool is_draining_ = false;
  bool is_aborting_ = false;
};

}  // namespace llmproxy
