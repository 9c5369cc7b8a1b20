// Level-triggered and EPOLLEXCLUSIVE: one server of several wakes for a new connection.
#include "net/listener.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/text.h"

namespace llmproxy::net {

ListenSocket ListenSocket::open(const std::string& host, uint16_t port, std::string& error) {
  const std::vector<Address> addresses = resolve_now(host, port, error);
  for (const Address& address : addresses) {
    const int fd = socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int on = 1;
    if (fd >= 0) {
      ListenSocket made(fd);
      setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      if (bind(fd, address.get(), address.size) == 0 && listen(fd, kBacklog) == 0) return made;
    }
    error = address.text() + ": " + errno_text(errno);
  }
  return ListenSocket(-1);
}

ListenSocket::ListenSocket(ListenSocket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

ListenSocket::~ListenSocket() {
  if (fd_ >= 0) close(fd_);
}

std::string ListenSocket::address() const {
  Address address;
  address.size = sizeof address.storage;
  getsockname(fd_, reinterpret_cast<sockaddr*>(&address.storage), &address.size);
  return address.text();
}

void send_and_close(int fd, std::string_view bytes) {
  [[maybe_unused]] const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  close(fd);
}

Listener::Listener(Loop& loop, const ListenSocket& socket, Acceptor& acceptor)
    : Timer(loop), loop_(loop), fd_(fcntl(socket.fd(), F_DUPFD_CLOEXEC, 0)), acceptor_(acceptor) {
  if (fd_ < 0 || !start()) throw std::system_error(errno, std::generic_category(), "listener");
}

Listener::~Listener() {
  loop_.unwatch(fd_);  // closing alone would leave it watched: the socket has other descriptors
  loop_.forget(*this);
  close(fd_);
}

bool Listener::start() {
  return loop_.watch(fd_, EPOLLIN | EPOLLEXCLUSIVE, *this);
}

void Listener::on_deadline() {
  if (!start()) arm(loop_.now() + kRest);
}

void Listener::on_events(uint32_t) {
  for (int i = 0; i < kAcceptsPerRound; ++i) {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      acceptor_.on_accept(fd);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return;
    if (errno == EINTR || errno == ECONNABORTED) continue;
    const int error = errno;
    loop_.unwatch(fd_);
    arm(loop_.now() + kRest);
    return acceptor_.on_accept_error(error);
  }
}

}  // namespace llmproxy::net
