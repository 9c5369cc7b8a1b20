// The listening socket, and each server's share of it. One socket, duplicated per server:
// SO_REUSEPORT would reset queued connections when one closes, and let a second proxy share the
// port unseen.
#pragma once

#include <string>
#include <string_view>

#include "net/address.h"
#include "net/loop.h"

namespace llmproxy::net {

// A bound, listening descriptor that closes itself.
class ListenSocket {
 public:
  static constexpr int kBacklog = 4096;  // the kernel cuts it to net.core.somaxconn

  // -1 in fd() and why in `error` when it cannot be had.
  static ListenSocket open(const std::string& host, uint16_t port, std::string& error);

  ListenSocket(ListenSocket&& other) noexcept;
  ListenSocket& operator=(ListenSocket&&) = delete;
  ~ListenSocket();

  int fd() const { return fd_; }
  std::string address() const;  // with the port it really has

 private:
  explicit ListenSocket(int fd) : fd_(fd) {}
  int fd_;
};

// Sends what the socket takes at once and closes it: for a connection that is refused unread.
void send_and_close(int fd, std::string_view bytes);

// Accepts for one loop.
class Listener final : Watched, Timer {
 public:
  class Acceptor {
   public:
    virtual void on_accept(int fd) = 0;           // takes `fd`, non-blocking, TCP_NODELAY set
    virtual void on_accept_error(int error) = 0;  // EMFILE and the like; accepting rests for kRest

   protected:
    ~Acceptor() = default;
  };

  static constexpr int kAcceptsPerRound = 1;  // more would pile a burst on one server
  static constexpr Milliseconds kRest{100};

  Listener(Loop& loop, const ListenSocket& socket, Acceptor& acceptor);
  ~Listener();

 private:
  void on_events(uint32_t events) override;
  void on_deadline() override;
  bool start();

  Loop& loop_;
  int fd_;
  Acceptor& acceptor_;
};

}  // namespace llmproxy::net
