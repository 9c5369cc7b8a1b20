// Reads heads, hands each to serve_request, closes.
#include "proxy/session.h"

#include <array>
#include <exception>
#include <optional>
#include <utility>

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

// The first bytes of a request are in the buffer. Empty lines in front of one are none of it (RFC
// 9112, section 2.2): some clients send one after a body.
bool has_request(net::Buffer& input) {
  while (input.bytes().starts_with("\r\n")) input.consume(2);
  return !input.empty() && input.bytes() != "\r";
}

// The head at the front of the input, if it is whole: true, or false with an Error to be told
// before closing. Nothing: there is room for more of it.
std::optional<bool> parse_head(Session& session, const Limits& limits, http::RequestHead& head,
                               MaybeError& refusal) {
  while (!session.input.empty()) {
    head.clear();
    const http::ParseResult parsed =
        parse_request_head(session.input.bytes(), head_limits(limits), head);
    if (parsed.state == http::Parse::kInvalid) {
      refusal = head_error(parsed);
      return false;
    }
    session.head_bytes = parsed.consumed;
    // A chunked body is decoded behind the head, so there must be room, be it full of requests
    // that follow; growing moves the head's views.
    const size_t behind = session.input.size() + session.input.room() - session.head_bytes;
    const bool has_room = !head.is_chunked || behind > 0;
    if (parsed.state == http::Parse::kDone && has_room) return true;
    // One block above the bound, so that the parser is the one to say that the head is too long.
    if (!session.input.make_room(limits.head_bytes_max + net::kBlockBytes)) {
      refusal = Error{431, Blame::kClient, "The request head is too large."};
      return false;
    }
    if (session.head_bytes == 0) break;  // else the head is whole; it only had to move
  }
  return std::nullopt;
}

net::Task<bool> read_more_head(Session& session, const Limits& limits, http::RequestHead& head,
                               MaybeError& refusal) {
  const MonotonicTime deadline = session.server.loop().now() + limits.timeout_head;
  for (;;) {
    const IoResult read =
        co_await session.client.read_some(session.input.tail(), session.input.room(), deadline);
    session.input.append(read.bytes);
    if (read.status == IoStatus::kTimeout && !session.input.empty()) {
      refusal = Error{408, Blame::kClient, "The request head did not arrive in time."};
    }
    if (!read.ok()) co_return false;
    const std::optional<bool> is_whole = parse_head(session, limits, head, refusal);
    if (is_whole) co_return *is_whole;
  }
}

// Reads until the head is whole. False: the connection closes, after an Error if there is one.
net::Step<bool> read_head(Session& session, const Limits& limits, http::RequestHead& head,
                          MaybeError& refusal) {
  session.head_bytes = 0;
  const std::optional<bool> is_whole = parse_head(session, limits, head, refusal);
  if (is_whole) return *is_whole;
  return read_more_head(session, limits, head, refusal);
}

// Tells the client that no more is coming and reads on for a while: closing at once would reset the
// connection under the reply (RFC 9112, section 9.6). A proxy that stops waits for it.
net::Task<void> linger(Session& session) {
  if (session.client.is_reset()) co_return;
  session.is_idle = false;
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

net::Task<void> send_last(Session& session, std::string& reply) {
  const Limits& limits = session.server.config()->limits;
  iovec part{reply.data(), reply.size()};
  co_await session.client.write_all({&part, 1}, limits.timeout_write, limits.body_rate_min);
}

net::Task<void> refuse_head(Session& session, const Error& error) {
  LastReply reply = last_reply(session.server, error);
  session.is_body_unread = true;
  co_await send_last(session, reply.bytes);
  session.server.parts().log.info("request refused: id={} status={} reason=\"{}\"", reply.id_hex,
                                  error.status, error.message);
}

// One request, whose first bytes are here. False when the connection ends with it.
net::Task<bool> serve_one(Session& session) {
  const std::shared_ptr<const Config> config = session.server.config();  // not before it: a reload
  session.is_idle = false;
  session.input.make_room(net::kBlockBytes);  // the head to the front: nothing moves it after this
  const HeadPool::Lease lease(session.server.heads());
  http::RequestHead& head = lease.head();
  MaybeError refusal;
  const bool has_head = co_await read_head(session, config->limits, head, refusal);
  if (refusal) co_await refuse_head(session, *refusal);
  if (!has_head) co_return false;
  ++session.requests;
  session.server.counters().requests.add();
  const bool keeps = co_await serve_request(session, head);
  session.is_idle = true;
  co_return keeps;
}

// Waits here for the first bytes of each request, without a buffer: another frame for it would be
// one more of an idle connection.
net::LastingTask<void> serve_all(Session& session) {
  net::Buffer& input = session.input;
  for (bool keeps = true; keeps;) {
    const MonotonicTime deadline =
        session.server.loop().now() + session.server.config()->limits.timeout_idle;
    while (keeps && !has_request(input)) {
      input.release();
      const IoResult readable = co_await session.client.readable(deadline);
      keeps = readable.ok();
      if (!keeps) break;
      input.make_room(net::kBlockBytes);
      const IoResult read = co_await session.client.read_some(input.tail(), input.room(), deadline);
      input.append(read.bytes);
      keeps = read.ok();
    }
    if (keeps) keeps = co_await serve_one(session);
  }
  if (session.is_body_unread || !input.empty()) co_await linger(session);
}

net::LastingTask<void> tell_refused(Session& session, std::string& reply) {
  co_await send_last(session, reply);
  co_await linger(session);
}

net::LastingTask<void> run(Session& session, net::LastingTask<void> life) {
  try {
    co_await life;
  } catch (const std::exception& bug) {
    session.server.parts().log.error("a session ended by a bug: {}", bug.what());
  }
}

}  // namespace

Session::Session(Server& server_of_it, int fd, Kind its_kind)
    : server(server_of_it),
      client(server.loop(), fd),
      input(server.blocks()),
      kind(its_kind),
      place_(server.enter(*this)) {}

Session::~Session() {
  if (is_gone_ != nullptr) *is_gone_ = true;
  server.leave(place_);
}

void Session::drain(bool has_grace) {
  if (has_answered) return interrupt.fire();
  if (is_idle && (requests > 0 || !has_grace)) client.cancel();
}

// Each step may resume the session and so end its life.
void Session::abort() {
  bool is_gone = false;
  is_gone_ = &is_gone;
  interrupt.fire();
  if (is_gone) return;
  is_gone_ = nullptr;
  client.cancel();
}

net::LastingTask<void> run_session(Server& server, int fd) {
  Session session(server, fd, Session::Kind::kServed);
  net::LastingTask<void> life = serve_all(session);
  co_await run(session, std::move(life));
}

net::LastingTask<void> refuse_session(Server& server, int fd, std::string reply) {
  Session session(server, fd, Session::Kind::kRefused);
  net::LastingTask<void> life = tell_refused(session, reply);
  co_await run(session, std::move(life));
}

}  // namespace llmproxy
