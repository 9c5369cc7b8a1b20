// Internet addresses, and names turned into them without blocking a loop.
#pragma once

#include <sys/socket.h>

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
  bool is_timeout = false;
};

// getaddrinfo(3) on threads of its own. Any loop may ask. A look-up that hangs is left behind at
// the end.
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

  Task<Resolved> resolve(Loop& loop, std::string host, uint16_t port, MonotonicTime deadline);

 private:
  struct Question;
  struct Shared;
  static void run(std::shared_ptr<Shared> shared);
  std::shared_ptr<Shared> shared_;
};

}  // namespace llmproxy::net
