// Blocking sockets and the little HTTP that load and backend need. Not strict: both ends are known
// here.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace llmproxy::bench {

constexpr size_t kRequestBodyBytes = 1024, kRequestBytesMin = 256;
constexpr size_t kPlainBodyBytes = 700;
constexpr size_t kEventBytes = 215;

// A run that cannot go on, or whose bills do not add up. Slowness never is one.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// With errno's text.
[[noreturn]] void fail_errno(const std::string& what);

int64_t monotonic_ns();

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }

 private:
  int fd_;
};

// 127.0.0.1, without Nagle's delay; every wait on it ends after kSilenceMax.
constexpr std::chrono::seconds kSilenceMax{30};
Fd connect_to(uint16_t port);
bool can_connect_to(uint16_t port);  // somebody listens there by now
// Port 0: any, which it then tells. The backlog: a crowd that comes at once finds room.
Fd listen_on(uint16_t& port, int backlog = 4096);
void prepare(int fd);
void send_all(int fd, std::string_view bytes);

constexpr std::string_view kModel = "bench-";

// What a request asks of the backend, by words in its prompt.
struct Ask {
  size_t request_bytes = kRequestBodyBytes;  // of its body, at least kRequestBytesMin
  std::string model{kModel};                 // with a number behind it
  size_t models = 1;                         // asked for in turn: bench-0, bench-1, ...
  bool is_stream = false;
  size_t body_bytes = kPlainBodyBytes;  // of a plain reply
  size_t events = 64;                   // of a stream, the one with finish_reason included
  std::chrono::microseconds pace{};  // from one event to the next; 0: the whole stream in one write
  bool asks_usage = false;           // the client asks for the usage of a stream
  bool closes = false;               // the backend closes its connection after a plain reply
  bool is_rewritten = false;         // by a gateway on the way: other bytes, the same reply

  int64_t completion_tokens() const;  // that its bill must have
};
constexpr int64_t kPlainCompletionTokens = 17;

// A chat completion. The backend reports `sequence` as its prompt tokens, so
// that each request has a bill of its own.
std::string make_request(std::string_view token, const Ask& ask, int64_t sequence);

// The number that follows `name`, whatever the case of its letters in a head; -1 without it.
int64_t number_after(std::string_view text, std::string_view name);

// One reply, fed as it arrives.
class ReplyReader {
 public:
  void reset();
  void feed(std::string_view bytes);
  bool is_done() const { return is_done_; }
  std::string_view status() const { return std::string_view(raw_).substr(9, 3); }
  std::string_view body() const { return body_; }  // what has come of it, without chunk framing

 private:
  bool take_head();
  void take_chunks();

  std::string raw_;
  std::string body_;
  size_t at_ = 0;    // in raw_: what is not taken yet
  size_t left_ = 0;  // of the body, or of the chunk at at_
  bool has_head_ = false;
  bool is_chunked_ = false;
  bool is_after_chunk_ = false;
  bool is_done_ = false;
};

}  // namespace llmproxy::bench
