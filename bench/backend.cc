// One epoll loop with blocking sockets: what is written always fits, since its readers always read.
#include "backend.h"

#include <fmt/format.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <limits>

namespace llmproxy::bench {
namespace {

constexpr size_t kReadBytes = 16384;
constexpr std::string_view kStampMark = "written ";
constexpr size_t kStampDigits = 20;
constexpr std::string_view kLastChunk = "0\r\n\r\n";
constexpr std::string_view kStreamHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    "Transfer-Encoding: chunked\r\n\r\n";

void append_chunk(std::string& out, std::string_view payload) {
  fmt::format_to(std::back_inserter(out), "{:x}\r\n{}\r\n", payload.size(), payload);
}

// Exactly kEventBytes.
std::string make_event(int64_t stamp, bool is_last) {
  std::string event =
      fmt::format(R"(data: {{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":0,)"
                  R"("model":"bench","choices":[{{"index":0,"delta":{{"content":"{}{:020} )",
                  kStampMark, stamp);
  const std::string end =
      fmt::format("\"}},\"finish_reason\":{}}}]}}\n\n", is_last ? R"("stop")" : "null");
  return event.append(kEventBytes - event.size() - end.size(), 'x').append(end);
}

// Wherever the member stands, and however it is spaced: gateways write requests anew.
bool asks_stream(std::string_view body) {
  constexpr std::string_view kName = "\"stream\":";
  const size_t at = body.find(kName);
  return at != std::string_view::npos && body.substr(at + kName.size(), 2).find('t') < 2;
}

std::string make_usage(int64_t prompt, int64_t completion) {
  return fmt::format(R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}}})", prompt,
                     completion, prompt + completion);
}

std::string make_usage_event(int64_t prompt, int64_t completion) {
  return fmt::format(
      "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":0,"
      "\"model\":\"bench\",\"choices\":[],\"usage\":{}}}\n\n",
      make_usage(prompt, completion));
}

std::string make_plain_reply(int64_t prompt, size_t size, bool closes) {
  std::string body =
      R"({"id":"chatcmpl-bench","object":"chat.completion","created":0,"model":"bench",)"
      R"("choices":[{"index":0,"message":{"role":"assistant","content":")";
  const std::string end = fmt::format("\"}},\"finish_reason\":\"stop\"}}],\"usage\":{}}}",
                                      make_usage(prompt, kPlainCompletionTokens));
  body.append(size - body.size() - end.size(), 'x').append(end);
  return fmt::format(
      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n{}",
      body.size(), closes ? "Connection: close\r\n" : "", body);
}

// With a certificate that nobody signed but itself.
SSL_CTX* make_tls() {
  constexpr long kDaySeconds = 86'400;
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const certificate = X509_new();
  X509_gmtime_adj(X509_getm_notBefore(certificate), -kDaySeconds);
  X509_gmtime_adj(X509_getm_notAfter(certificate), kDaySeconds);
  X509_set_pubkey(certificate, key);
  X509_sign(certificate, key, EVP_sha256());
  SSL_CTX* const context = SSL_CTX_new(TLS_server_method());
  const bool is_made = SSL_CTX_use_certificate(context, certificate) == 1 &&
                       SSL_CTX_use_PrivateKey(context, key) == 1;
  SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);  // or a read waits for what may never come
  X509_free(certificate);
  EVP_PKEY_free(key);
  if (!is_made) throw Failure("no TLS context can be made");
  return context;
}

}  // namespace

int64_t stamp_of(std::string_view event) {
  const size_t at = event.find(kStampMark);
  if (at == std::string_view::npos) return 0;
  const std::string_view digits = event.substr(at + kStampMark.size(), kStampDigits);
  int64_t stamp = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), stamp);
  return stamp;
}

bool holds_reply(std::string_view body, const Ask& ask) {
  constexpr size_t kFrameMax = 300;  // of a plain reply: all of it but the text
  const bool has_usage = number_after(body, "\"completion_tokens\":") >= 0 ||
                         number_after(body, "\"completion_tokens\": ") >= 0;
  if (!ask.is_stream) {
    const auto text = static_cast<size_t>(std::count(body.begin(), body.end(), 'x'));
    return has_usage && text + kFrameMax >= ask.body_bytes;
  }
  size_t events = 0;
  for (size_t at = 0; (at = body.find(kStampMark, at)) != std::string_view::npos; ++at) ++events;
  return events == ask.events && (has_usage || !ask.asks_usage) &&
         body.find("data: [DONE]") != std::string_view::npos;
}

struct Backend::Connection {
  explicit Connection(int descriptor) : fd(descriptor) {}
  ~Connection() { SSL_free(ssl); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void send(std::string_view bytes) const {
    if (ssl == nullptr) return send_all(fd.get(), bytes);
    if (SSL_write(ssl, bytes.data(), static_cast<int>(bytes.size())) <= 0) throw Failure("TLS");
  }

  Fd fd;
  SSL* ssl = nullptr;
  std::string input;
  bool is_closing = false;  // it has said so: what comes is the other side's end
  Ask ask;                  // of the stream under way
  int64_t sequence = 0;
  size_t events_left = 0;
  int64_t due = 0;  // of the next event; 0: it is not in due_
};

Backend::Backend(size_t ports, bool is_tls)
    : tls_(is_tls ? make_tls() : nullptr),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      stop_(eventfd(0, EFD_CLOEXEC)) {
  watch(stop_.get());
  while (ports_.size() < ports) {
    Fd listener = listen_on(ports_.emplace_back());
    watch(listener.get());
    listeners_.emplace(listener.get(), std::move(listener));
  }
  thread_ = std::thread([this] { run(); });
}

Backend::~Backend() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof one);
  thread_.join();
  connections_.clear();
  SSL_CTX_free(tls_);
}

void Backend::watch(int fd) {
  epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) fail_errno("epoll_ctl");
}

// What fails for one connection ends that one: its reader sees it, and says so.
template <class Action>
void Backend::guard(Connection& connection, Action action) {
  try {
    action();
  } catch (const Failure&) {
    forget_due(connection);
    shutdown(connection.fd.get(), SHUT_RDWR);
  }
}

void Backend::run() {
  for (;;) {
    const int64_t due = next_due();
    const int64_t wait = std::max<int64_t>(due - monotonic_ns(), 0);
    const timespec timeout{wait / 1'000'000'000, wait % 1'000'000'000};
    std::array<epoll_event, 256> events;
    const int count =
        epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(events.size()),
                     due == std::numeric_limits<int64_t>::max() ? nullptr : &timeout, nullptr);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == stop_.get()) return;
      const auto connection = connections_.find(fd);
      if (connection == connections_.end()) {
        accept_one(fd);
      } else {
        guard(*connection->second, [&] { read(*connection->second); });
      }
    }
    for (const int64_t now = monotonic_ns(); !due_.empty() && due_.begin()->first <= now;) {
      Connection& connection = *connections_.at(due_.begin()->second);
      guard(connection, [&] { write_next(connection); });
    }
  }
}

int64_t Backend::next_due() const {
  return due_.empty() ? std::numeric_limits<int64_t>::max() : due_.begin()->first;
}

void Backend::set_due(Connection& connection, int64_t due) {
  forget_due(connection);
  if (connection.events_left == 0) return;
  connection.due = due;
  due_.emplace(due, connection.fd.get());
}

void Backend::forget_due(Connection& connection) {
  due_.erase({connection.due, connection.fd.get()});
  connection.due = 0;
}

void Backend::accept_one(int listener) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return;
  prepare(fd);
  epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
  auto connection = std::make_unique<Connection>(fd);
  if (tls_ != nullptr) {
    connection->ssl = SSL_new(tls_);
    SSL_set_fd(connection->ssl, fd);
    if (SSL_accept(connection->ssl) != 1) return;
  }
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return;
  connections_[fd] = std::move(connection);
}

// False at the end of the connection.
bool Backend::read_some(Connection& connection) {
  std::array<char, kReadBytes> bytes;
  if (connection.ssl == nullptr) {
    const ssize_t count = recv(connection.fd.get(), bytes.data(), bytes.size(), 0);
    if (count > 0) connection.input.append(bytes.data(), static_cast<size_t>(count));
    return count > 0;
  }
  const int count = SSL_read(connection.ssl, bytes.data(), static_cast<int>(bytes.size()));
  if (count > 0) connection.input.append(bytes.data(), static_cast<size_t>(count));
  return count > 0 || SSL_get_error(connection.ssl, count) == SSL_ERROR_WANT_READ;
}

void Backend::read(Connection& connection) {
  do {
    if (!read_some(connection) || connection.is_closing) {
      forget_due(connection);
      connections_.erase(connection.fd.get());
      return;
    }
  } while (connection.ssl != nullptr && SSL_pending(connection.ssl) > 0);
  take_request(connection);
}

void Backend::take_request(Connection& connection) {
  std::string& input = connection.input;
  const size_t end = input.find("\r\n\r\n");
  if (end == std::string::npos) return;
  const std::string_view text = input;
  const int64_t length = number_after(text.substr(0, end), "\r\ncontent-length: ");
  if (length < 0) throw Failure("the backend got a request without a length");
  const size_t size = end + 4 + static_cast<size_t>(length);
  if (input.size() < size) return;
  answer(connection, text.substr(end + 4, static_cast<size_t>(length)));
  input.erase(0, size);
}

void Backend::answer(Connection& connection, std::string_view body) {
  const std::string_view whole = body;
  body = body.substr(0, kRequestBytesMin);  // all that the load says stands at its front
  connection.sequence = number_after(body, "sequence ");
  if (!asks_stream(whole)) {
    const auto size = static_cast<size_t>(number_after(body, "body "));
    connection.is_closing = number_after(body, "closes ") == 1;
    connection.send(make_plain_reply(connection.sequence, size, connection.is_closing));
    if (!connection.is_closing) return;
    if (connection.ssl != nullptr) SSL_shutdown(connection.ssl);
    shutdown(connection.fd.get(), SHUT_WR);
    return;
  }
  Ask& ask = connection.ask;
  ask.is_stream = true;
  ask.events = static_cast<size_t>(number_after(body, "events "));
  ask.pace = std::chrono::microseconds(number_after(body, "pace "));
  ask.asks_usage =
      whole.find("include_usage") != std::string_view::npos;  // a proxy adds it anywhere
  begin_stream(connection);
}

const std::string& Backend::burst(size_t events) {
  std::string& burst = bursts_[events];
  if (burst.empty()) {
    for (size_t i = 1; i < events; ++i) append_chunk(burst, make_event(monotonic_ns(), false));
  }
  return burst;
}

void Backend::begin_stream(Connection& connection) {
  std::string out(kStreamHead);
  connection.events_left = connection.ask.events;
  if (connection.ask.pace.count() == 0) {
    out.append(burst(connection.ask.events));
    connection.events_left = 1;
  }
  append_event(connection, out);
  connection.send(out);
  set_due(connection, monotonic_ns() + std::chrono::nanoseconds(connection.ask.pace).count());
}

void Backend::write_next(Connection& connection) {
  std::string out;
  append_event(connection, out);
  connection.send(out);
  set_due(connection, connection.due + std::chrono::nanoseconds(connection.ask.pace).count());
}

// The last event brings all that follows it: a model server says these without a pause.
void Backend::append_event(Connection& connection, std::string& out) {
  const bool is_last = --connection.events_left == 0;
  append_chunk(out, make_event(monotonic_ns(), is_last));
  if (!is_last) return;
  if (connection.ask.asks_usage) {
    append_chunk(out, make_usage_event(connection.sequence, connection.ask.completion_tokens()));
  }
  append_chunk(out, "data: [DONE]\n\n");
  out.append(kLastChunk);
}

}  // namespace llmproxy::bench
