// Plain replies. Streams: stream_relay.cc.
#include "proxy/relay.h"

#include <array>
#include <string>

#include "proxy/reply.h"
#include "proxy/reply_body.h"

namespace llmproxy {
namespace {

constexpr std::string_view kMask = "***";

// An error body may quote the credentials it was called with; ours are none of the client's
// business.
std::string mask_secret(std::string_view body, std::string_view secret) {
  std::string masked;
  for (size_t at = 0;;) {
    const size_t found = body.find(secret, at);
    masked.append(body.substr(at, found - at));
    if (found == std::string_view::npos) return masked;
    masked.append(kMask);
    at = found + secret.size();
  }
}

net::Task<void> send_plain(Request& request, const Exchange& exchange, std::string_view body) {
  std::string masked;
  const std::string& secret = request.backend->token;
  if (exchange.status >= 300 && !secret.empty() && body.find(secret) != std::string_view::npos) {
    masked = mask_secret(body, secret);
    body = masked;
  }
  std::string head;
  head.reserve(512);
  append_status_line(head, exchange.status);
  head.append(exchange.headers).append("X-Request-Id: ").append(request.id_hex).append("\r\n");
  if (exchange.has_no_body) {
    head += request.decide_keep_alive() ? "\r\n" : "Connection: close\r\n\r\n";
  } else {
    append_length_and_end(head, body.size(), request.decide_keep_alive());
  }
  request.status = exchange.status;
  std::array<iovec, 2> parts{iovec{head.data(), head.size()},
                             iovec{const_cast<char*>(body.data()), body.size()}};
  co_await request.send_to_client(parts);
}

}  // namespace

net::Task<std::optional<Error>> relay_plain(Request& request, Exchange& exchange) {
  net::Loop& loop = request.server.loop();
  const size_t limit = request.config->limits.reply_bytes_max;
  MemoryShare share(request.server.parts().memory);
  ReplyBody body(exchange);
  ReplyBody::Status status = ReplyBody::Status::kMore;
  bool is_too_long = exchange.content_length.value_or(0) > limit;
  while (!body.is_done() && status == ReplyBody::Status::kMore && !is_too_long) {
    status = co_await body.more(loop.now() + request.config->timeout_read, limit);
    is_too_long = status == ReplyBody::Status::kFull || !share.raise_to(body.bytes().size());
  }
  Evidence& evidence = request.evidence;
  evidence.ended_normally = body.is_done();
  evidence.is_too_long = is_too_long;
  if (body.is_done()) evidence.facts = request.endpoint->read_reply(body.bytes(), request.call);
  co_await settle(request);
  request.session.backend_socket = nullptr;
  if (!body.is_done()) {
    exchange.connection.reset();
    request.ended = "backend_cut";
    co_return cut_error(is_too_long ? ReplyBody::Status::kFull : status);
  }
  co_await send_plain(request, exchange, body.bytes());
  if (body.is_clean() && exchange.keeps_alive) {
    body.consume(body.bytes().size());
    request.server.backends().give_back(std::move(exchange.connection), exchange.idle_limit);
  }
  co_return std::nullopt;
}

}  // namespace llmproxy
