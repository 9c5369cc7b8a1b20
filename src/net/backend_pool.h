// Connections to backends, kept for the next request, and made when there is none. One per server,
// one thread. A kept connection on which anything happens (its end, or a byte nobody asked for) is
// closed.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "base/digest.h"
#include "config/config.h"
#include "net/address.h"
#include "net/buffer.h"
#include "net/lasting.h"
#include "net/loop.h"
#include "net/socket.h"
#include "net/tls.h"

namespace llmproxy::net {

// Where connections go: backends that agree in all of this share them.
struct Origin {
  std::string host;
  uint16_t port = 0;
  bool is_https = false;
  bool verify_ssl = true;
  std::string ca_file;
  Sha256 ca_digest{};

  static Origin of(const Backend& backend);
};

// The order of origins, also of a backend's without a copy of it.
struct OriginOrder {
  using is_transparent = void;
  template <class A, class B>
  bool operator()(const A& a, const B& b) const {
    return key(a) < key(b);
  }

 private:
  template <class T>
  static auto key(const T& of) {
    return std::tie(of.port, of.host, of.is_https, of.verify_ssl, of.ca_file, of.ca_digest);
  }
};

class BackendPool;

class BackendConnection final : Socket::IdleWatcher {
 public:
  BackendConnection(Loop& loop, int fd, BlockPool& blocks) : socket(loop, fd), input(blocks) {}

  static void* operator new(size_t size) { return allocate_lasting(size); }
  static void operator delete(void* memory, size_t size) noexcept { free_lasting(memory, size); }

  Socket socket;
  Buffer input;            // bytes read and not yet used
  bool is_reused = false;  // it has served a request before

 private:
  friend class BackendPool;
  using Kept = std::unique_ptr<BackendConnection>;
  using Idle = std::list<Kept, LastingAllocator<Kept>>;
  void on_idle_event(Socket& socket) override;  // ends the life of this connection

  Idle* idle_ = nullptr;  // the pool's list of its origin
  Idle::iterator place_{};
  MonotonicTime idle_since_{}, idle_until_{};
  uint64_t idle_round_ = 0;  // of the loop, in which it was given back
};

struct Connected {
  std::unique_ptr<BackendConnection> connection;  // null: `error` says why
  std::string error{};
  bool is_timeout = false;
};

class BackendPool final : Timer {
 public:
  static constexpr size_t kIdlePerOriginMax = 512;
  static constexpr std::chrono::seconds kIdleMax{55};  // shorter than the usual 60 s of servers
  // Whoever is idle for less is reused without a look at the kernel, if the loop has looked since:
  // no server gives up a connection so soon, and each look is a system call.
  static constexpr Milliseconds kTrusted{100};
  static constexpr std::chrono::seconds kNamesKept{30};
  // Addresses that all failed are used again only after this part of the time left was waited for
  // better ones.
  static constexpr int kNameShare = 4;

  static constexpr Milliseconds kSweep{1'000};  // how often what has been idle too long is closed

  BackendPool(Loop& loop, Resolver& resolver, BlockPool& blocks, Milliseconds sweep = kSweep);
  ~BackendPool();

  // The connection used last, or null.
  std::unique_ptr<BackendConnection> take_idle(const Backend& backend);

  // A new one: name, TCP and TLS within the deadline, and no longer than until `interrupt` is
  // fired. Each address in turn, with an equal share of the time left, so that a dead one does not
  // use it up. Who connects to one origin shares one look-up; known addresses serve while they are
  // asked for again, and a name that cannot be resolved again keeps them.
  Task<Connected> connect(const Backend& backend, MonotonicTime deadline,
                          Interrupt* interrupt = nullptr);

  // Keeps the connection for later. Only after a whole reply on a connection that both sides keep
  // alive. `idle_limit`: what the backend announced (Keep-Alive: timeout), or kIdleMax.
  void give_back(std::unique_ptr<BackendConnection> connection, Milliseconds idle_limit);

  size_t idle_count() const;

 private:
  struct Place {
    BackendConnection::Idle idle;  // oldest first
    TlsSession session;
    std::vector<Address> addresses;
    MonotonicTime addresses_until{};
    bool has_failed = false;                       // none of them could be connected to
    std::shared_ptr<Resolver::Question> question;  // asked, and its answer not yet taken

    void take_answer(MonotonicTime now);
  };

  void on_deadline() override;  // closes what has been idle too long
  TlsContext* find_context(const Origin& origin, std::string& error);
  Task<Connected> find_addresses(const Origin& origin, Place& place, MonotonicTime deadline,
                                 Interrupt* interrupt);
  Task<Connected> connect_to(Address address, const Origin& origin, Place& place,
                             MonotonicTime deadline, Interrupt* interrupt);

  Loop& loop_;
  Resolver& resolver_;
  BlockPool& blocks_;
  std::map<Origin, Place, OriginOrder> places_;
  BackendConnection::Idle nodes_;  // of lists, empty, for the next connection that is given back
  // By verify_ssl, ca_file and ca_digest.
  std::map<std::tuple<bool, std::string, Sha256>, std::unique_ptr<TlsContext>> contexts_;
  const Milliseconds sweep_;
  bool is_armed_ = false;
};

}  // namespace llmproxy::net
