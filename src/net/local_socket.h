// A Unix stream socket for this machine's administrator: blocking, one line at a time, every wait
// bounded. For a thread of its own and for the command line; no part of the event loop.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"

namespace llmproxy::net {

// A descriptor with an owner.
class LocalFd {
 public:
  explicit LocalFd(int fd = -1) : fd_(fd) {}
  LocalFd(LocalFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  LocalFd& operator=(LocalFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~LocalFd();
  int get() const { return fd_; }

 private:
  int fd_;
};

class LocalConnection {
 public:
  explicit LocalConnection(LocalFd fd) : fd_(std::move(fd)) {}

  // To the socket at `path`. Nothing: `problem` says why in words.
  static std::optional<LocalConnection> open(const std::string& path, std::string& problem);

  // What comes up to the next line feed, without it. False: longer than `bytes_max`, not there
  // within `limit`, or the other side has left before it.
  bool read_line(std::string& line, size_t bytes_max, Milliseconds limit);
  // All of it. False: not taken within `limit`, or the other side has left.
  bool write(std::string_view bytes, Milliseconds limit);

 private:
  LocalFd fd_;
};

class LocalListener {
 public:
  // At `path`, mode 0600. A socket that lies there already is one that a process left behind, since
  // who calls this holds the lock of what it controls: it is replaced; any other file is not. Null
  // descriptor and `problem`: why not.
  static std::optional<LocalListener> open(const std::string& path, std::string& problem);
  LocalListener(LocalListener&&) = default;
  ~LocalListener();  // removes the socket's file

  // The next connection; nothing once stop() was called, by any thread.
  std::optional<LocalConnection> accept();
  void stop();

 private:
  LocalListener(LocalFd fd, LocalFd stop, std::string path)
      : fd_(std::move(fd)), stop_(std::move(stop)), path_(std::move(path)) {}

  LocalFd fd_;
  LocalFd stop_;  // an eventfd
  std::string path_;
};

}  // namespace llmproxy::net
