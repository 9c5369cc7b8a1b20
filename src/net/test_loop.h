// For the tests: a coroutine run to its end on a loop, rounds counted, allocations counted, TCP
// pairs. Not part of the program.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <system_error>

#include "base/test_allocations.h"
#include "net/loop.h"
#include "net/task.h"

namespace llmproxy::net {

// Far enough for every test that works; a test that hangs fails instead.
constexpr std::chrono::seconds kPatience{20};

inline MonotonicTime soon() {
  return monotonic_now() + kPatience;
}

// Ends a loop whose test hangs.
class Watchdog final : Timer {
 public:
  explicit Watchdog(Loop& loop) : Timer(loop), loop_(loop) { arm(soon()); }

 private:
  void on_deadline() override {
    ADD_FAILURE() << "the test hangs";
    loop_.stop();
  }
  Loop& loop_;
};

inline Task<void> stop_after(Loop& loop, Task<void> task) {
  co_await task;
  loop.stop();
}

// Runs a coroutine function to its end: run_on_loop(body), run_on_loop(body, argument).
template <class... Args>
void run_on_loop(Task<void> (*body)(Loop&, Args...), Args... args) {
  Loop loop;
  Watchdog watchdog(loop);
  spawn(stop_after(loop, body(loop, args...)));
  loop.run();
}

// co_await NextRound(loop): after the events of at least one epoll_wait from here on.
class NextRound final : Posted {
 public:
  explicit NextRound(Loop& loop) : loop_(loop) {}
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    waiting_ = waiting;
    loop_.post(*this);
  }
  void await_resume() const {}

 private:
  void run() override {
    if (rounds_++ == 0) return loop_.post(*this);  // perhaps still the round that began before
    waiting_.resume();
  }
  Loop& loop_;
  std::coroutine_handle<> waiting_;
  int rounds_ = 0;
};

[[noreturn]] inline void test_failed(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

struct TcpOptions {
  int send_bytes = 0;     // SO_SNDBUF of `ours`; 0: the system's
  int receive_bytes = 0;  // SO_RCVBUF of `theirs`
};

// A listening socket on a free port of 127.0.0.1, or on one that was free.
class TestListener {
 public:
  explicit TestListener(int backlog = 64, int receive_bytes = 0, uint16_t port = 0) {
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (receive_bytes > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    }
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address_.sin_port = htons(port);
    socklen_t size = sizeof address_;
    auto* address = reinterpret_cast<sockaddr*>(&address_);
    if (bind(fd_, address, size) != 0 || listen(fd_, backlog) != 0) test_failed("listen");
    getsockname(fd_, address, &size);
  }
  ~TestListener() { close(); }
  TestListener(const TestListener&) = delete;
  TestListener& operator=(const TestListener&) = delete;

  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  int accept(int flags = SOCK_CLOEXEC) const {
    const int fd = accept4(fd_, nullptr, nullptr, flags);
    if (fd < 0) test_failed("accept");
    return fd;
  }
  uint16_t port() const { return ntohs(address_.sin_port); }
  const sockaddr* address() const { return reinterpret_cast<const sockaddr*>(&address_); }
  int fd() const { return fd_; }

 private:
  int fd_;
  sockaddr_in address_{};
};

// Both ends of a TCP connection, non-blocking. Who takes one closes it.
struct TcpPair {
  explicit TcpPair(TcpOptions options = {}) {
    const TestListener listener(1, options.receive_bytes);
    ours = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (options.send_bytes > 0) {
      setsockopt(ours, SOL_SOCKET, SO_SNDBUF, &options.send_bytes, sizeof options.send_bytes);
    }
    if (connect(ours, listener.address(), sizeof(sockaddr_in)) != 0) test_failed("connect");
    theirs = listener.accept(SOCK_CLOEXEC | SOCK_NONBLOCK);
    const int flags = fcntl(ours, F_GETFL);
    fcntl(ours, F_SETFL, flags | O_NONBLOCK);
  }
  int ours, theirs;
};

inline void send_text(int fd, const std::string& text) {
  EXPECT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}

// Closes with RST instead of FIN.
inline void reset(int fd) {
  const linger now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  ::close(fd);
}

}  // namespace llmproxy::net
