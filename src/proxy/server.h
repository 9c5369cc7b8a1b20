// One server: an event loop on a thread of its own with its connections, its backend pool and its
// view of the configuration. Servers share only what Parts names.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <optional>

#include "base/log.h"
#include "billing/ledger.h"
#include "billing/object_id.h"
#include "config/config.h"
#include "net/backend_pool.h"
#include "net/buffer.h"
#include "net/listener.h"
#include "net/loop.h"
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
  MemoryBudget& memory;
  std::atomic<size_t>& connections;  // open ones, all servers
};

class Server final : public net::Listener::Acceptor {
 public:
  // A connection that has not sent a request yet may do so for this long after draining began.
  static constexpr Milliseconds kDrainGrace{1'000};

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
  Counters& counters() { return counters_; }
  const Counters& counters() const { return counters_; }

  std::list<Session*>::iterator enter(Session& session);
  void leave(std::list<Session*>::iterator place);

 private:
  void on_accept(int fd) override;
  void on_accept_error(int error) override;
  void tell(std::function<void()> message);
  void stop_if_empty();

  class GraceTimer final : public net::Timer {
   public:
    GraceTimer(net::Loop& loop, Server& server) : Timer(loop), server_(server) {}

   private:
    void on_deadline() override { server_.drain_sessions(false); }
    Server& server_;
  };
  void drain_sessions(bool has_grace);

  Parts parts_;
  std::shared_ptr<const Config> config_;
  net::Loop loop_;
  net::BlockPool blocks_;
  net::BackendPool backends_;
  std::optional<net::Listener> listener_;
  std::list<Session*> sessions_;
  Counters counters_;
  GraceTimer grace_;
  bool is_draining_ = false;
  bool is_aborting_ = false;
};

}  // namespace llmproxy
