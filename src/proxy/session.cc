// Reads heads, hands each to serve_request, closes.
#include "proxy/session.h"

#include <array>
#include <exception>
#include <optional>

#include "proxy/reply.h"
#include "proxy/request.h"

namespace llmproxy {
namespace {

using net::IoResult;
using net::IoStatus;

http::HeadLimits head_limits(const Limits& limits) {
  return {limits.head_bytes_max, limits.headers_max, limits.target_bytes_max};
}

Error head_error(const http::ParseResult& result) {
  return {result.status, Blame::kClient, std::string(result.reason)};
}

// Waits for the first byte of a request; holds no buffer meanwhile. False: no request will come.
net::Task<bool> wait_for_request(Session& session) {
  if (!session.input.empty()) co_return true;
  session.input.release();
  const MonotonicTime deadline =
      session.server.loop().now() + session.server.config()->limits.timeout_idle;
  co_return (co_await session.client.readable(deadline)).ok();
}

// Reads until the head is whole. An Error is to be told before closing; false: just close.
net::Task<Result<bool>> read_head(Session& session, const Limits& limits, http::RequestHead& head) {
  const http::HeadLimits bounds = head_limits(limits);
  const MonotonicTime deadline = session.server.loop().now() + limits.timeout_head;
  session.head_bytes = 0;
  for (;;) {
    if (!session.input.empty()) {
      head.clear();
      const http::ParseResult parsed = parse_request_head(session.input.bytes(), bounds, head);
      if (parsed.state == http::Parse::kInvalid) co_return head_error(parsed);
      session.head_bytes = parsed.consumed;
      // A chunked body is decoded behind the head, so there must be room; growing moves the head's
      // views.
      const bool has_room = !head.is_chunked || session.input.room() > 0;
      if (parsed.state == http::Parse::kDone && has_room) co_return true;
    }
    // One block above the bound, so that the parser is the one to say that the head is too long.
    if (!session.input.make_room(limits.head_bytes_max + net::kBlockBytes)) {
      co_return Error{431, Blame::kClient, "The request head is too large."};
    }
    if (session.head_bytes > 0) continue;  // the head is whole; it only had to move
    const IoResult read =
        co_await session.client.read_some(session.input.tail(), session.input.room(), deadline);
    session.input.append(read.bytes);
    if (read.status == IoStatus::kTimeout && !session.input.empty()) {
      co_return Error{408, Blame::kClient, "The request head did not arrive in time."};
    }
    if (!read.ok()) co_return false;
  }
}

// Tells the client that no more is coming and reads on for a while: closing at once would reset the
// connection under the reply (RFC 9112, section 9.6).
net::Task<void> linger(Session& session) {
  session.client.shutdown_write();
  const MonotonicTime deadline = session.server.loop().now() + Session::kLingerMax;
  session.input.reset();
  for (size_t bytes = 0; bytes < Session::kLingerBytesMax;) {
    session.input.make_room(net::kBlockBytes);
    const IoResult read =
        co_await session.client.read_some(session.input.tail(), session.input.room(), deadline);
    if (!read.ok()) break;
    bytes += read.bytes;
  }
  session.input.reset();
}

// One request. False when the connection ends with it.
net::Task<bool> serve_next(Session& session, http::RequestHead& head) {
  if (!co_await wait_for_request(session)) co_return false;
  const std::shared_ptr<const Config> config = session.server.config();  // not before it: a reload
  session.is_idle = false;
  session.input.make_room(net::kBlockBytes);  // the head to the front: nothing moves it after this
  const Result<bool> has_head = co_await read_head(session, config->limits, head);
  if (!has_head.ok()) {
    session.is_body_unread = true;
    co_await tell_head_error(session, has_head.error());
    co_return false;
  }
  if (!*has_head) co_return false;
  ++session.requests;
  session.server.counters().requests.add();
  const bool keeps = co_await serve_request(session, head);
  session.is_idle = true;
  co_return keeps && !session.server.is_draining();
}

net::Task<void> serve_all(Session& session) {
  http::RequestHead head;
  while (co_await serve_next(session, head)) {
  }
  const bool is_peer_speaking = session.is_body_unread || !session.input.empty();
  if (is_peer_speaking && !session.client.is_reset()) co_await linger(session);
}

}  // namespace

Session::Session(Server& server_of_it, int fd)
    : server(server_of_it), client(server.loop(), fd), input(server.blocks()) {
  place_ = server.enter(*this);
}

Session::~Session() {
  if (is_gone_ != nullptr) *is_gone_ = true;
  server.leave(place_);
}

void Session::drain(bool has_grace) {
  if (is_idle && (requests > 0 || !has_grace)) client.cancel();
}

// Each step may resume the session and so end its life.
void Session::abort() {
  bool is_gone = false;
  is_gone_ = &is_gone;
  interrupt.fire();
  if (!is_gone && backend_socket != nullptr) backend_socket->cancel();
  if (is_gone) return;
  is_gone_ = nullptr;
  client.cancel();
}

net::Task<void> run_session(Server& server, int fd) {
  Session session(server, fd);
  try {
    co_await serve_all(session);
  } catch (const std::exception& bug) {
    server.parts().log.error("a session ended by a bug: {}", bug.what());
  }
}

}  // namespace llmproxy
