// A TCP copy loop, the floor for every proxy on this machine: for each client a connection to the
// backend, bytes both ways, no HTTP. One thread. copy LISTEN_PORT BACKEND_PORT
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <vector>

#include "process.h"
#include "wire.h"

namespace llmproxy::bench {
namespace {

constexpr int kBacklog = 4'096;
constexpr size_t kEventsPerRound = 256;
constexpr size_t kCopyBytes = 16'384;

// By descriptor: where its bytes go.
class CopyLoop {
 public:
  CopyLoop(uint16_t& port, uint16_t backend_port)
      : backend_port_(backend_port),
        listener_(listen_on(port, kBacklog)),
        epoll_(epoll_create1(0)) {
    fcntl(listener_.get(), F_SETFL, O_NONBLOCK);
    watch(listener_.get(), 0);
  }

  [[noreturn]] void run() {
    std::array<epoll_event, kEventsPerRound> events;
    for (;;) {
      const int n = epoll_wait(epoll_.get(), events.data(), kEventsPerRound, -1);
      for (int i = 0; i < n; ++i) {
        const int fd = events[static_cast<size_t>(i)].data.fd;
        fd == listener_.get() ? accept_all() : copy(fd);
      }
    }
  }

 private:
  void watch(int fd, uint32_t flags) {
    epoll_event event{};
    event.events = EPOLLIN | flags;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw Failure("epoll_ctl failed");
  }

  void accept_all() {
    for (;;) {
      const int client = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (client < 0) return;
      open_.emplace_back(client);
      open_.push_back(connect_to(backend_port_));
      const int backend = open_.back().get();
      prepare(client);
      join(client, backend);
      join(backend, client);
      watch(client, EPOLLET);
      watch(backend, EPOLLET);
    }
  }

  void join(int from, int to) {
    if (static_cast<size_t>(from) >= peers_.size())
      peers_.resize(static_cast<size_t>(from) + 1, -1);
    peers_[static_cast<size_t>(from)] = to;
  }

  // All there is, as far as a short read tells. A peer that does not take it holds up all others.
  void copy(int fd) {
    const int peer = peers_[static_cast<size_t>(fd)];
    if (peer < 0) return;
    for (;;) {
      const ssize_t n = recv(fd, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) break;
      send_all(peer, {buffer_.data(), static_cast<size_t>(n)});
      if (static_cast<size_t>(n) < buffer_.size()) return;
    }
    peers_[static_cast<size_t>(fd)] = -1;
    shutdown(peer, SHUT_RDWR);
  }

  const uint16_t backend_port_;
  Fd listener_, epoll_;
  std::vector<Fd> open_;  // until the end
  std::vector<int> peers_;
  std::array<char, kCopyBytes> buffer_;
};

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  if (argc != 3) {
    fmt::print(stderr, "usage: copy LISTEN_PORT BACKEND_PORT\n");
    return 64;
  }
  return run_program("copy", [&] {
    auto port = static_cast<uint16_t>(number_of(argv[1]));
    CopyLoop(port, static_cast<uint16_t>(number_of(argv[2]))).run();
  });
}
