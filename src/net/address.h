// Internet addresses, and names turned into them without blocking a loop.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/completion.h"
#include "net/loop.h"

namespace llmproxy::net {

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  std::string text() const;  // "127.0.0.1:8080", "[::1]:8080"

  // `host` is an IPv4 or IPv6 literal without brackets; anything else gives nothing.
  static std::optional<Address> from_literal(const std::string& host, uint16_t port);
};

constexpr size_t kAddressesMax = 16;  // of one name; more are left out

// Blocking; for start-up. `error` says why when the result is empty.
std::vector<Address> resolve_now(const std::string& host, uint16_t port, std::string& error);

struct Resolved {
  std::vector<Address> addresses;  // empty: `error` says why
  std::string error{};
};

// getaddrinfo(3) on threads of its own. Any loop may ask. A look-up that hangs is left behind at
// the end; its thread tells nobody then. The resolver ends before the loops that asked it.
class Resolver {
 public:
  static constexpr size_t kThreads = 2;
  static constexpr size_t kQueueMax = 1024;  // look-ups waiting; beyond it they fail at once

  // `look_up` is called on the threads, perhaps still after the end of this object.
  using LookUp = std::vector<Address>(const std::string& host, uint16_t port, std::string& error);
  explicit Resolver(LookUp* look_up = resolve_now);
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // A look-up, under way or done; any number may wait for it, each on its own loop. It is begun for
  // as long as anybody holds it.
  class Question {
   public:
    // Null while it is under way.
    const Resolved* answer() const { return is_answered_ ? &answer_ : nullptr; }

   private:
    friend class Resolver;
    std::string host_;
    uint16_t port_ = 0;
    Resolved answer_;  // written before is_answered_
    std::atomic<bool> is_answered_{false};
    std::vector<std::shared_ptr<Notice>> waiting_;  // guarded by the mutex of Shared
  };

  // Answered at once when the host is a literal, or when there are too many.
  std::shared_ptr<Question> ask(std::string host, uint16_t port);
  // Until it is answered, the deadline, or the interrupt.
  Task<void> wait(Loop& loop, std::shared_ptr<Question> question, MonotonicTime deadline,
                  Interrupt* interrupt = nullptr);

 private:
  struct Shared;
  static void run(std::shared_ptr<Shared> shared);
  std::shared_ptr<Shared> shared_;
};

}  // namespace llmproxy::net
