// Plain replies. Streams: stream_relay.cc.
#include "proxy/relay.h"

#include <array>
#include <string>

#include "proxy/errors.h"
#include "proxy/read_body.h"
#include "proxy/reply.h"
#include "proxy/reply_body.h"

namespace llmproxy {
namespace {

using Status = ReplyBody::Status;

net::Task<Status> read_on(Request& request, const Exchange& exchange, ReplyBody& body,
                          MemoryShare& share) {
  const size_t limit = request.config->limits.reply_bytes_max;
  if (exchange.content_length.value_or(0) > limit) co_return Status::kFull;
  for (;;) {
    const size_t bytes = body.bytes().size();
    if (bytes > limit) co_return Status::kFull;
    const bool has_room = share.raise_to(beyond_block(bytes));
    if (body.is_done()) co_return Status::kMore;  // it is there: no room is needed any more
    if (!has_room) co_return Status::kNoMemory;
    const MonotonicTime deadline = request.server.loop().now() + request.config->timeout_read;
    const Status status = co_await body.more(deadline, limit);
    if (status != Status::kMore) co_return status;
  }
}

// kMore: it is whole.
net::Step<Status> read_whole(Request& request, const Exchange& exchange, ReplyBody& body,
                             MemoryShare& share) {
  const size_t limit = request.config->limits.reply_bytes_max;
  const bool came_with_head = body.is_done() && body.bytes().size() <= net::kBlockBytes;
  if (came_with_head && body.bytes().size() <= limit) return Status::kMore;
  return read_on(request, exchange, body, share);
}

// What it says of its cost. False: there is no room to read it.
net::Step<bool> read_facts(Request& request, const ReplyBody& body) {
  const auto read = [&request, &body] {
    request.evidence.facts = request.endpoint->read_reply(body.bytes(), request.call);
  };
  return read_body(request.server, body.bytes(), MemoryBudget::Use::kReply, read);
}

iovec part(std::string_view bytes) {
  return {const_cast<char*>(bytes.data()), bytes.size()};
}

void end_head(const Request& request, Exchange& exchange, size_t length) {
  if (!exchange.has_no_body)
    return append_length_and_end(exchange.head, length, request.keeps_alive());
  exchange.head += request.keeps_alive() ? "\r\n" : "Connection: close\r\n\r\n";
}

}  // namespace

net::Task<MaybeError> relay_plain(Request& request, Exchange& exchange) {
  MemoryShare share(request.server.parts().memory, MemoryBudget::Use::kReply);
  ReplyBody body(exchange);
  Status status = co_await read_whole(request, exchange, body, share);
  if (status == Status::kMore && !co_await read_facts(request, body)) status = Status::kNoMemory;
  const bool is_whole = status == Status::kMore;
  request.evidence.ended_normally = is_whole;
  request.evidence.is_too_long = status == Status::kFull || status == Status::kNoMemory;
  const bool is_recorded = co_await settle(request);
  if (is_whole && is_recorded) {
    end_head(request, exchange, body.bytes().size());
    request.status = exchange.status;
    std::array<iovec, 2> parts{part(exchange.head), part(body.bytes())};
    co_await request.send_to_client(parts);
  }
  end_exchange(request, exchange, is_whole && body.is_clean());
  if (!is_recorded) co_return after_sending(cannot_record());
  if (is_whole) co_return std::nullopt;
  request.end_as(cut_end(status));
  co_return cut_error(status);
}

}  // namespace llmproxy
