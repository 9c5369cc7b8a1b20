// Non-blocking descriptors and poll(2): a deadline bounds each call as a whole.
#include "net/local_socket.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace llmproxy::net {
namespace {

constexpr int kBacklog = 8;
constexpr mode_t kMode = 0600;
constexpr Milliseconds kAcceptAgain{100};  // after an error that will pass, such as too many files

// False: `path` does not fit.
bool make_address(const std::string& path, sockaddr_un& address, std::string& problem) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    problem = fmt::format("{}: a socket's path has at most {} bytes, this one has {}", path,
                          sizeof address.sun_path - 1, path.size());
    return false;
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return true;
}

LocalFd make_socket() {
  return LocalFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

std::string describe(const std::string& path, int error) {
  return fmt::format("{}: {}", path, errno_text(error));
}

// False: not ready before the deadline.
bool await(int fd, short events, MonotonicTime deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<Milliseconds>(deadline - monotonic_now()).count();
    if (left < 0) return false;
    pollfd one{fd, events, 0};
    const int ready = poll(&one, 1, static_cast<int>(std::min<int64_t>(left, 1'000'000)));
    if (ready > 0) return true;
    if (ready == 0 && left == 0) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
}

}  // namespace

LocalFd::~LocalFd() {
  if (fd_ >= 0) close(fd_);
}

std::optional<LocalConnection> LocalConnection::open(const std::string& path,
                                                     std::string& problem) {
  sockaddr_un address;
  if (!make_address(path, address, problem)) return std::nullopt;
  LocalFd fd = make_socket();
  // Of a Unix socket it is there at once, or its owner has more to do than it takes: EAGAIN.
  if (fd.get() < 0 ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    problem = describe(path, errno);
    return std::nullopt;
  }
  return LocalConnection(std::move(fd));
}

bool LocalConnection::read_line(std::string& line, size_t bytes_max, Milliseconds limit) {
  const MonotonicTime deadline = monotonic_now() + limit;
  line.clear();
  std::array<char, 4096> piece;
  while (line.size() <= bytes_max) {
    const ssize_t n = recv(fd_.get(), piece.data(), piece.size(), 0);
    if (n == 0) return false;
    if (n > 0) {
      line.append(piece.data(), static_cast<size_t>(n));
      const size_t end = line.find('\n');
      if (end == std::string::npos) continue;
      line.resize(end);  // one line is all that a connection says
      return end <= bytes_max;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN || !await(fd_.get(), POLLIN, deadline)) return false;
  }
  return false;
}

bool LocalConnection::write(std::string_view bytes, Milliseconds limit) {
  const MonotonicTime deadline = monotonic_now() + limit;
  while (!bytes.empty()) {
    const ssize_t n = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno != EINTR) {
      if (errno != EAGAIN || !await(fd_.get(), POLLOUT, deadline)) return false;
    }
  }
  return true;
}

std::optional<LocalListener> LocalListener::open(const std::string& path, std::string& problem) {
  sockaddr_un address;
  if (!make_address(path, address, problem)) return std::nullopt;
  struct stat status {};
  if (lstat(path.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) {
      problem = fmt::format("{}: a file that is no socket is in its place", path);
      return std::nullopt;
    }
    unlink(path.c_str());
  }
  LocalFd fd = make_socket();
  LocalFd stop(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  // The mode before the name: it is never there for others.
  const bool is_bound =
      fd.get() >= 0 && stop.get() >= 0 && fchmod(fd.get(), kMode) == 0 &&
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  if (!is_bound) {
    problem = describe(path, errno);
    return std::nullopt;
  }
  if (listen(fd.get(), kBacklog) != 0) {
    problem = describe(path, errno);
    unlink(path.c_str());
    return std::nullopt;
  }
  return LocalListener(std::move(fd), std::move(stop), path);
}

LocalListener::~LocalListener() {
  if (fd_.get() >= 0) unlink(path_.c_str());
}

std::optional<LocalConnection> LocalListener::accept() {
  for (;;) {
    std::array<pollfd, 2> both{{{fd_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    if (poll(both.data(), both.size(), -1) < 0 && errno != EINTR) return std::nullopt;
    if ((both[1].revents & POLLIN) != 0) return std::nullopt;
    if ((both[0].revents & POLLIN) == 0) continue;
    LocalFd fd(accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.get() >= 0) return LocalConnection(std::move(fd));
    // It would be ready again at once.
    await(stop_.get(), POLLIN, monotonic_now() + kAcceptAgain);
  }
}

void LocalListener::stop() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(stop_.get(), &one, sizeof one);
}

}  // namespace llmproxy::net
