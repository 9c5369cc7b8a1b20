// A kept connection may have been closed by the backend a moment ago. Only when its end shows
// within kResendWithin after the call was written, and without a single byte of a reply, is the
// call sent once more, on a fresh connection: then the backend closed it before the call came, or
// has at least not worked for it (RFC 9112, section 9.3.1, leaves it to us to know that). Whoever
// had the call for longer may have answered in vain; every such failure is final.
#include "proxy/exchange.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <span>

#include "proxy/errors.h"
#include "proxy/header_rules.h"
#include "proxy/reply.h"
#include "proxy/secret_mask.h"

namespace llmproxy {
namespace {

using net::IoResult;
using net::IoStatus;

constexpr int kInterimRepliesMax = 8;
constexpr size_t kReplyHeadBytesMax = 64 << 10;
constexpr size_t kReplyHeadTypical = 512;  // ours
constexpr http::HeadLimits kReplyHeadLimits{kReplyHeadBytesMax, 200, 0};
constexpr Milliseconds kResendWithin{1'000};

Error describe(IoStatus status, const net::Socket& socket) {
  switch (status) {
    case IoStatus::kTimeout:
      return after_sending(backend_error(504, "The model server did not answer in time."));
    case IoStatus::kCancelled:
      return after_sending(shutting_down());
    default:
      return after_sending(
          backend_error(502, "The model server closed the connection.", socket.error_text()));
  }
}

void add_call_head(net::Buffer& out, const Request& request, size_t length, bool is_resend) {
  const Backend& backend = *request.backend;
  const auto add = [&out](auto... parts) { (out.add(parts), ...); };
  add("POST ", backend.base_path, request.endpoint->path);
  add(" HTTP/1.1\r\nHost: ", backend.authority, "\r\n");
  if (!backend.token.empty()) add("Authorization: Bearer ", backend.token, "\r\n");
  const fmt::format_int digits(length);
  add("Content-Type: application/json\r\nContent-Length: ");
  add(std::string_view(digits.data(), digits.size()));
  add("\r\nAccept-Encoding: identity\r\nX-Request-Id: ", request.id_hex());
  add(is_resend ? "-2\r\n" : "\r\n");
  add_call_headers(out, request.head);
  add("\r\n");
}

// Of a call: its head and its body, with the splices laid between the body's bytes; nothing is
// copied.
class CallParts {
 public:
  CallParts(std::string_view head, std::string_view body, std::span<const Splice> splices) {
    LLMPROXY_CHECK(splices.size() <= kSplicesMax);
    add(head);
    size_t at = 0;
    for (const Splice& splice : splices) {
      add(body.substr(at, splice.offset - at));
      add(splice.insert);
      at = splice.offset + splice.remove;
    }
    add(body.substr(at));
  }
  std::span<iovec> get() { return {parts_.data(), count_}; }

 private:
  void add(std::string_view bytes) {
    if (!bytes.empty()) parts_[count_++] = {const_cast<char*>(bytes.data()), bytes.size()};
  }
  std::array<iovec, 2 + 2 * kSplicesMax> parts_;
  size_t count_ = 0;
};

size_t edited_size(std::string_view body, const std::vector<Splice>& splices) {
  size_t size = body.size();
  for (const Splice& splice : splices) size += splice.insert.size() - splice.remove;
  return size;
}

Milliseconds announced_idle(const http::ResponseHead& head) {
  const http::Header* header = head.find("keep-alive");
  const size_t at = header == nullptr ? std::string_view::npos : header->value.find("timeout=");
  if (at == std::string_view::npos) return net::BackendPool::kIdleMax;
  const std::string_view digits = header->value.substr(at + 8);
  int seconds = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), seconds);
  return seconds > 1 ? std::chrono::seconds(seconds - 1) : std::chrono::seconds(0);
}

MaybeError take_head(const Request& request, const http::ResponseHead& head, Exchange& exchange) {
  if (head.status >= 300 && head.status < 400) {
    return after_sending(backend_error(502, "The model server sent a redirect.",
                                       fmt::format("status {}", head.status)));
  }
  exchange.status = head.status;
  exchange.is_stream = is_event_stream(head) && !head.has_no_body;
  exchange.is_encoded = is_encoded(head);
  exchange.has_no_body = head.has_no_body;
  exchange.is_chunked = head.is_chunked;
  exchange.content_length = head.content_length;
  exchange.keeps_alive =
      head.keep_alive && (head.is_chunked || head.content_length || head.has_no_body);
  exchange.idle_limit = announced_idle(head);
  exchange.has_cache_control = head.find("cache-control") != nullptr;
  exchange.secret = request.backend->token;
  exchange.head.reserve(kReplyHeadTypical);
  append_status_line(exchange.head, head.status);
  append_reply_headers(exchange.head, head, SecretMask(exchange.secret));
  exchange.head.append("X-Request-Id: ").append(request.id_hex()).append("\r\n");
  return std::nullopt;
}

enum class HeadEnd : uint8_t {
  kRead,
  kInterim,  // 1xx: another one follows
  kNoByte,   // the connection ended without any
  kFailed,
};

Error invalid_reply(std::string_view why) {
  return after_sending(
      backend_error(502, "The model server sent an invalid reply.", std::string(why)));
}

// The head at the front of the buffer, if it is whole.
std::optional<HeadEnd> parse_head(const Request& request, Exchange& exchange, MaybeError& error) {
  net::Buffer& input = exchange.connection->input;
  if (input.empty()) return std::nullopt;
  http::ResponseHead& head = request.server.empty_reply_head();
  const http::ParseResult parsed = parse_response_head(input.bytes(), kReplyHeadLimits, head);
  if (parsed.state == http::Parse::kIncomplete) return std::nullopt;
  if (parsed.state == http::Parse::kInvalid || head.status == 101) {
    error = invalid_reply(parsed.state == http::Parse::kInvalid ? parsed.reason : "status 101");
    return HeadEnd::kFailed;
  }
  const bool is_interim = head.status < 200;
  if (!is_interim) error = take_head(request, head, exchange);
  input.consume(parsed.consumed);
  if (is_interim) return HeadEnd::kInterim;
  return error ? HeadEnd::kFailed : HeadEnd::kRead;
}

// Reads one head.
net::Task<HeadEnd> read_head(Request& request, Exchange& exchange, MaybeError& error) {
  net::Socket& socket = exchange.connection->socket;
  net::Buffer& input = exchange.connection->input;
  for (;;) {
    const std::optional<HeadEnd> end = parse_head(request, exchange, error);
    if (end) co_return *end;
    const MonotonicTime deadline = request.server.loop().now() + request.config->timeout_read;
    if (input.empty()) co_await socket.readable(deadline);
    if (!input.make_room(kReplyHeadBytesMax + net::kBlockBytes)) {
      error = invalid_reply("head too large");
      co_return HeadEnd::kFailed;
    }
    const IoResult read = co_await socket.read_some(input.tail(), input.room(), deadline);
    input.append(read.bytes);
    if (read.ok()) continue;
    error = describe(read.status, socket);
    const bool is_end = read.status == IoStatus::kEnd || read.status == IoStatus::kReset;
    co_return (is_end && input.empty()) ? HeadEnd::kNoByte : HeadEnd::kFailed;
  }
}

// Sends the call and reads the reply's head; interim replies are passed over. A backend may refuse
// a call before it has taken all of it: then its reply counts, and not our EPIPE or its deafness.
// The connection serves no more in that case.
net::Task<HeadEnd> call(Request& request, Exchange& exchange, bool is_resend, MaybeError& error) {
  net::Loop& loop = request.server.loop();
  net::Socket& socket = exchange.connection->socket;
  const std::string_view body = request.body.bytes();
  net::Buffer head(request.server.blocks());
  add_call_head(head, request, edited_size(body, request.splices), is_resend);
  CallParts parts(head.bytes(), body, request.splices);
  request.evidence.was_sent = true;
  request.server.counters().calls.add();
  IoResult sent{IoStatus::kAnswered};
  MonotonicTime written = loop.now();
  for (int interim = 0; interim <= kInterimRepliesMax; ++interim) {
    if (sent.status == IoStatus::kAnswered) {
      sent = co_await socket.write_unless_answered(parts.get(), request.config->timeout_read);
      written = loop.now();
      if (sent.ok()) head.reset();
    }
    if (sent.status == IoStatus::kTimeout || sent.status == IoStatus::kCancelled ||
        sent.status == IoStatus::kFailed) {
      error = describe(sent.status, socket);
      co_return HeadEnd::kFailed;
    }
    const HeadEnd end = co_await read_head(request, exchange, error);
    if (end == HeadEnd::kInterim) continue;
    exchange.keeps_alive = exchange.keeps_alive && sent.ok();
    const bool is_late = interim > 0 || loop.now() - written > kResendWithin;
    co_return (end == HeadEnd::kNoByte && is_late) ? HeadEnd::kFailed : end;
  }
  error = invalid_reply("too many interim replies");
  co_return HeadEnd::kFailed;
}

net::Task<MaybeError> connect(Request& request, Exchange& exchange) {
  const MonotonicTime deadline = request.server.loop().now() + request.config->timeout_connect;
  net::Connected connected = co_await request.server.backends().connect(*request.backend, deadline,
                                                                        &request.session.interrupt);
  exchange.connection = std::move(connected.connection);
  if (exchange.connection != nullptr) co_return std::nullopt;
  const std::string where = fmt::format("backend {}: {}", request.backend->name, connected.error);
  if (connected.is_timeout) {
    co_return backend_error(504, "The model server could not be reached in time.", where);
  }
  co_return backend_error(502, "The model server cannot be reached.", where);
}

// Why nothing is to be sent any more, if so.
MaybeError refuse_call(Request& request, bool is_resend) {
  if (request.session.interrupt.is_fired()) return shutting_down();
  if (is_resend || !request.session.client.is_reset()) return std::nullopt;
  request.lose_client("client_gone");  // before the call was sent: nothing is sent, free
  return Error{499, Blame::kClient, "The client left before its request was sent on."};
}

}  // namespace

void Exchange::close() {
  guard.reset();
  connection.reset();
}

net::Task<MaybeError> run_exchange(Request& request, Exchange& exchange) {
  for (bool is_resend = false;; is_resend = true) {
    MaybeError error;
    if (!is_resend) exchange.connection = request.server.backends().take_idle(*request.backend);
    if (exchange.connection == nullptr) error = co_await connect(request, exchange);
    if (MaybeError refused = refuse_call(request, is_resend)) co_return refused;
    if (error) co_return error;
    exchange.guard.emplace(&request.session.interrupt, exchange.connection->socket);
    const HeadEnd end = co_await call(request, exchange, is_resend, error);
    request.evidence.has_head = end == HeadEnd::kRead;
    if (end == HeadEnd::kRead) co_return std::nullopt;
    const bool may_resend = end == HeadEnd::kNoByte && exchange.connection->is_reused;
    exchange.close();
    if (!may_resend) co_return error;
    request.server.counters().resends.add();
  }
}

void end_exchange(Request& request, Exchange& exchange, bool is_clean) {
  if (!is_clean || !exchange.keeps_alive) return exchange.close();
  exchange.guard.reset();
  exchange.connection->input.reset();
  request.server.backends().give_back(std::move(exchange.connection), exchange.idle_limit);
}

}  // namespace llmproxy
