// A kept connection may have been closed by the backend a moment ago. Only when it ended without a
// single byte of a reply is the call sent once more, on a fresh connection: then the backend cannot
// have served it (RFC 9110, section 9.2.2, leaves it to us to know that; every other failure is
// final).
#include "proxy/exchange.h"

#include <fmt/format.h>

#include <charconv>
#include <vector>

#include "proxy/header_rules.h"

namespace llmproxy {
namespace {

using net::IoResult;
using net::IoStatus;

constexpr int kInterimRepliesMax = 8;
constexpr size_t kReplyHeadBytesMax = 64 << 10;
constexpr http::HeadLimits kReplyHeadLimits{kReplyHeadBytesMax, 200, 0};

Error backend_error(int status, std::string message, std::string detail) {
  Error error{status, Blame::kBackend, std::move(message)};
  error.code = status == 504 ? "timeout" : "upstream_error";
  error.detail = std::move(detail);
  return error;
}

// After the call was sent the backend may have worked for it: a client must not send it again
// unasked.
Error after_sending(Error error) {
  error.should_retry = false;
  return error;
}

Error describe(IoStatus status, const net::Socket& socket) {
  switch (status) {
    case IoStatus::kTimeout:
      return after_sending(backend_error(504, "The model server did not answer in time.", ""));
    case IoStatus::kCancelled: {
      Error error{503, Blame::kProxy, "The server is shutting down."};
      error.code = "service_unavailable";
      return after_sending(error);
    }
    default:
      return after_sending(
          backend_error(502, "The model server closed the connection.", socket.error_text()));
  }
}

std::string call_head(const Request& request, size_t length, bool is_resend) {
  const Backend& backend = *request.backend;
  std::string head;
  head.reserve(512);
  head.append("POST ").append(backend.base_path).append(request.endpoint->path);
  head.append(" HTTP/1.1\r\nHost: ").append(backend.authority).append("\r\n");
  if (!backend.token.empty()) {
    head.append("Authorization: Bearer ").append(backend.token).append("\r\n");
  }
  fmt::format_to(std::back_inserter(head),
                 "Content-Type: application/json\r\nContent-Length: {}\r\n"
                 "Accept-Encoding: identity\r\nX-Request-Id: {}{}\r\n",
                 length, request.id_hex, is_resend ? "-2" : "");
  append_call_headers(head, request.head);
  head.append("\r\n");
  return head;
}

// The body's bytes with the splices laid between them; nothing is copied.
std::vector<iovec> call_parts(std::string& head, std::string_view body,
                              std::vector<Splice>& splices) {
  std::vector<iovec> parts;
  parts.reserve(2 + 2 * splices.size());
  parts.push_back({head.data(), head.size()});
  size_t at = 0;
  const auto add = [&](const char* data, size_t size) {
    if (size > 0) parts.push_back({const_cast<char*>(data), size});
  };
  for (const Splice& splice : splices) {
    add(body.data() + at, splice.offset - at);
    add(splice.insert.data(), splice.insert.size());
    at = splice.offset + splice.remove;
  }
  add(body.data() + at, body.size() - at);
  return parts;
}

size_t edited_size(std::string_view body, const std::vector<Splice>& splices) {
  size_t size = body.size();
  for (const Splice& splice : splices) size += splice.insert.size() - splice.remove;
  return size;
}

net::Task<std::optional<Error>> send_call(Request& request, Exchange& exchange, bool is_resend) {
  std::vector<Splice> splices =
      request.endpoint->edit_call(request.body.bytes(), request.call, request.backend->usage);
  const size_t length = edited_size(request.body.bytes(), splices);
  std::string head = call_head(request, length, is_resend);
  std::vector<iovec> parts = call_parts(head, request.body.bytes(), splices);
  request.evidence.was_sent = true;
  const IoResult sent =
      co_await exchange.connection->socket.write_all(parts, request.config->timeout_read);
  // A backend may refuse a call before it has taken all of it: its reply says more than our EPIPE.
  if (sent.ok() || sent.status == IoStatus::kReset) co_return std::nullopt;
  co_return describe(sent.status, exchange.connection->socket);
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

std::optional<Error> take_head(const Request& request, const http::ResponseHead& head,
                               Exchange& exchange) {
  if (head.status >= 300 && head.status < 400) {
    return after_sending(backend_error(502, "The model server sent a redirect.",
                                       fmt::format("status {}", head.status)));
  }
  exchange.status = head.status;
  exchange.is_stream = is_event_stream(head);
  exchange.has_no_body = head.has_no_body;
  exchange.is_chunked = head.is_chunked;
  exchange.content_length = head.content_length;
  exchange.keeps_alive =
      head.keep_alive && (head.is_chunked || head.content_length || head.has_no_body);
  exchange.idle_limit = announced_idle(head);
  exchange.has_cache_control = head.find("cache-control") != nullptr;
  append_reply_headers(exchange.headers, head, request.backend->token);
  return std::nullopt;
}

enum class HeadEnd : uint8_t { kRead, kNoByte, kFailed };

// Reads the reply's head; interim replies (1xx) are passed over.
net::Task<HeadEnd> read_reply_head(Request& request, Exchange& exchange,
                                   std::optional<Error>& error) {
  net::Socket& socket = exchange.connection->socket;
  net::Buffer& input = exchange.connection->input;
  http::ResponseHead head;
  bool has_byte = false;
  for (int interim = 0; interim <= kInterimRepliesMax;) {
    if (!input.empty()) {
      head.clear();
      const http::ParseResult parsed = parse_response_head(input.bytes(), kReplyHeadLimits, head);
      if (parsed.state == http::Parse::kInvalid) {
        error = after_sending(backend_error(502, "The model server sent an invalid reply.",
                                            std::string(parsed.reason)));
        co_return HeadEnd::kFailed;
      }
      if (parsed.state == http::Parse::kDone && head.status >= 100 && head.status < 200) {
        if (head.status == 101) break;
        ++interim;
        input.consume(parsed.consumed);
        continue;
      }
      if (parsed.state == http::Parse::kDone) {
        error = take_head(request, head, exchange);
        input.consume(parsed.consumed);
        co_return error ? HeadEnd::kFailed : HeadEnd::kRead;
      }
    }
    const MonotonicTime deadline = request.server.loop().now() + request.config->timeout_read;
    if (input.empty()) co_await socket.readable(deadline);
    if (!input.make_room(kReplyHeadBytesMax + net::kBlockBytes)) break;
    const IoResult read = co_await socket.read_some(input.tail(), input.room(), deadline);
    input.append(read.bytes);
    has_byte |= read.bytes > 0;
    if (read.ok()) continue;
    error = describe(read.status, socket);
    const bool is_end = read.status == IoStatus::kEnd || read.status == IoStatus::kReset;
    co_return is_end && !has_byte ? HeadEnd::kNoByte : HeadEnd::kFailed;
  }
  error = after_sending(backend_error(502, "The model server sent an invalid reply.",
                                      "too many interim replies, or 101"));
  co_return HeadEnd::kFailed;
}

net::Task<std::optional<Error>> connect(Request& request, Exchange& exchange) {
  const MonotonicTime deadline = request.server.loop().now() + request.config->timeout_connect;
  net::Connected connected = co_await request.server.backends().connect(*request.backend, deadline);
  exchange.connection = std::move(connected.connection);
  if (exchange.connection != nullptr) co_return std::nullopt;
  const std::string where = fmt::format("backend {}: {}", request.backend->name, connected.error);
  if (connected.is_timeout) {
    co_return backend_error(504, "The model server could not be reached in time.", where);
  }
  co_return backend_error(502, "The model server cannot be reached.", where);
}

}  // namespace

net::Task<std::optional<Error>> run_exchange(Request& request, Exchange& exchange) {
  for (const bool is_resend : {false, true}) {
    if (!is_resend) exchange.connection = request.server.backends().take_idle(*request.backend);
    if (exchange.connection == nullptr) {
      std::optional<Error> failed = co_await connect(request, exchange);
      if (failed) co_return failed;
    }
    if (!is_resend && request.session.client.is_reset()) {
      request.lose_client("client_gone");  // before the call was sent: nothing is sent, free
      co_return Error{499, Blame::kClient, "The client left before its request was sent on."};
    }
    request.session.backend_socket = &exchange.connection->socket;
    if (request.server.is_aborting()) exchange.connection->socket.cancel();
    request.server.counters().calls.add();
    std::optional<Error> error = co_await send_call(request, exchange, is_resend);
    if (error) co_return error;
    const HeadEnd end = co_await read_reply_head(request, exchange, error);
    request.evidence.has_head = end == HeadEnd::kRead;
    if (end == HeadEnd::kRead) co_return std::nullopt;
    const bool may_resend = end == HeadEnd::kNoByte && exchange.connection->is_reused && !is_resend;
    request.session.backend_socket = nullptr;
    exchange.connection.reset();
    if (!may_resend) co_return error;
    request.server.counters().resends.add();
  }
  co_return Error{502, Blame::kBackend, "The model server closed the connection."};
}

}  // namespace llmproxy
