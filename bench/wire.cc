// Sockets by hand, so that nothing of the proxy's own code measures the proxy.
#include "wire.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <system_error>

namespace llmproxy::bench {
namespace {

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// -1 and errno when nobody is there.
Fd connected(uint16_t port) {
  Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Fd();
  }
  return fd;
}

}  // namespace

void fail_errno(const std::string& what) {
  throw Failure(what + ": " + std::generic_category().message(errno));
}

int64_t monotonic_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

void prepare(int fd) {
  const int on = 1;
  const timeval silence{kSilenceMax.count(), 0};
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence);
}

Fd connect_to(uint16_t port) {
  Fd fd = connected(port);
  if (fd.get() < 0) fail_errno(fmt::format("connect to port {}", port));
  prepare(fd.get());
  return fd;
}

bool can_connect_to(uint16_t port) {
  return connected(port).get() >= 0;
}

Fd listen_on(uint16_t& port, int backlog) {
  Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(port);
  socklen_t size = sizeof address;
  if (fd.get() < 0 || bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(fd.get(), backlog) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    fail_errno("listen");
  }
  port = ntohs(address.sin_port);
  return fd;
}

void send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) fail_errno("send");
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

int64_t Ask::completion_tokens() const {
  return is_stream ? static_cast<int64_t>(events) : kPlainCompletionTokens;
}

std::string make_request(std::string_view token, const Ask& ask, int64_t sequence) {
  std::string body =
      fmt::format(R"({{"model":"{}{}","stream":{}{},"messages":[{{"role":"user","content":)"
                  R"("sequence {} body {} events {} pace {} closes {:d} )",
                  ask.model, static_cast<size_t>(sequence) % ask.models, ask.is_stream,
                  ask.asks_usage ? R"(,"stream_options":{"include_usage":true})" : "", sequence,
                  ask.body_bytes, ask.events, ask.pace.count(), ask.closes);
  constexpr std::string_view kEnd = R"("}]})";
  body.append(ask.request_bytes - body.size() - kEnd.size(), 'x').append(kEnd);
  return fmt::format(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n"
      "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
      token, body.size(), body);
}

int64_t number_after(std::string_view text, std::string_view name) {
  const auto same = [](char a, char b) { return (a | 32) == (b | 32); };
  const auto found = std::search(text.begin(), text.end(), name.begin(), name.end(), same);
  int64_t number = -1;
  if (found != text.end()) {
    std::from_chars(&*found + name.size(), text.data() + text.size(), number);
  }
  return number;
}

void ReplyReader::reset() {
  raw_.clear();
  body_.clear();
  at_ = left_ = 0;
  has_head_ = is_chunked_ = is_after_chunk_ = is_done_ = false;
}

void ReplyReader::feed(std::string_view bytes) {
  raw_.append(bytes);
  if (!has_head_ && !take_head()) return;
  if (is_chunked_) return take_chunks();
  body_.append(raw_, at_);
  at_ = raw_.size();
  is_done_ = body_.size() >= left_;
}

bool ReplyReader::take_head() {
  const size_t end = raw_.find("\r\n\r\n");
  if (end == std::string::npos) return false;
  std::string head = raw_.substr(0, end + 2);
  std::transform(head.begin(), head.end(), head.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  constexpr std::string_view kLength = "\r\ncontent-length: ";
  const size_t length = head.find(kLength);
  is_chunked_ = head.find("\r\ntransfer-encoding: chunked\r\n") != std::string::npos;
  if (length != std::string::npos) {
    std::from_chars(head.data() + length + kLength.size(), head.data() + head.size(), left_);
  } else if (!is_chunked_) {
    throw Failure("a reply without a length:\n" + head);
  }
  at_ = end + 4;
  has_head_ = true;
  return true;
}

void ReplyReader::take_chunks() {
  constexpr std::string_view kLineEnd = "\r\n";
  while (!is_done_) {
    const size_t size = std::min(left_, raw_.size() - at_);
    body_.append(raw_, at_, size);
    at_ += size;
    left_ -= size;
    if (left_ > 0) return;
    const size_t begin = at_ + (is_after_chunk_ ? kLineEnd.size() : 0);
    const size_t end = raw_.find(kLineEnd, begin);
    if (end == std::string::npos) return;
    size_t next = 0;
    std::from_chars(raw_.data() + begin, raw_.data() + end, next, 16);
    if (next == 0 && raw_.size() < end + 2 * kLineEnd.size()) return;
    is_done_ = next == 0;
    is_after_chunk_ = true;
    left_ = next;
    at_ = end + kLineEnd.size();
  }
}

}  // namespace llmproxy::bench
