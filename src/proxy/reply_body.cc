// Three framings (RFC 9112, section 6.3): chunked, a length, or until the connection closes.
#include "proxy/reply_body.h"

#include <algorithm>

#include "proxy/errors.h"

namespace llmproxy {

using net::IoResult;
using net::IoStatus;

Error cut_error(ReplyBody::Status status) {
  switch (status) {
    case ReplyBody::Status::kTimeout:
      return after_sending(
          backend_error(504, "The model server fell silent in the middle of its answer."));
    case ReplyBody::Status::kCancelled:
      return after_sending(shutting_down());
    case ReplyBody::Status::kNoMemory:
      return after_sending(no_memory());
    case ReplyBody::Status::kFull:
      return after_sending(backend_error(502, "The model server's answer is too large."));
    case ReplyBody::Status::kInvalid:
      return after_sending(backend_error(502, "The model server sent an invalid reply."));
    case ReplyBody::Status::kMore:
    case ReplyBody::Status::kCut:
      break;
  }
  return after_sending(backend_error(502, "The model server's answer was cut off."));
}

std::string_view cut_end(ReplyBody::Status status) {
  switch (status) {
    case ReplyBody::Status::kTimeout:
      return "backend_timeout";
    case ReplyBody::Status::kCancelled:
      return "shutdown";
    case ReplyBody::Status::kNoMemory:
      return "no_memory";
    case ReplyBody::Status::kFull:
      return "reply_too_long";
    case ReplyBody::Status::kInvalid:
    case ReplyBody::Status::kMore:
    case ReplyBody::Status::kCut:
      break;
  }
  return "backend_cut";
}

ReplyBody::ReplyBody(Exchange& exchange)
    : exchange_(exchange), mask_(exchange.secret), left_(exchange.content_length.value_or(0)) {
  net::Buffer& input = exchange_.connection->input;
  const size_t raw = input.size();
  char* const data = input.data();
  input.truncate(0);
  if (exchange_.has_no_body || (exchange_.content_length && left_ == 0)) {
    is_done_ = true;
    has_excess_ = raw > 0;
  } else if (raw > 0) {
    take(data, raw);
  }
}

// `size` raw bytes that lie right behind the payload. Looks for the token from where one may begin
// that ends in them.
ReplyBody::Status ReplyBody::take(char* data, size_t size) {
  net::Buffer& input = exchange_.connection->input;
  const size_t fresh = decode(data, size);
  input.append(fresh);
  const size_t looked_at = std::min(input.size(), fresh + mask_.overlap());
  mask_.apply(input.data() + input.size() - looked_at, looked_at);
  return is_invalid_ ? Status::kInvalid : Status::kMore;
}

// How much payload of it is there; it then lies at `data`.
size_t ReplyBody::decode(char* data, size_t size) {
  if (exchange_.is_chunked) {
    const http::ChunkedDecoder::Step step = decoder_.decode(data, size);
    is_done_ = step.is_done;
    is_invalid_ = step.is_invalid;
    has_excess_ = step.is_done && step.consumed < size;
    return step.payload;
  }
  if (!exchange_.content_length) return size;
  const size_t payload = static_cast<size_t>(std::min<uint64_t>(left_, size));
  left_ -= payload;
  is_done_ = left_ == 0;
  has_excess_ = payload < size;
  return payload;
}

net::Task<ReplyBody::Status> ReplyBody::more(MonotonicTime deadline, size_t limit) {
  if (is_invalid_) co_return Status::kInvalid;
  net::Buffer& input = exchange_.connection->input;
  net::Socket& socket = exchange_.connection->socket;
  if (input.empty()) {
    input.release();
    co_await socket.readable(deadline);
  }
  if (!input.make_room(limit + net::kBlockBytes)) co_return Status::kFull;
  const IoResult read = co_await socket.read_some(input.tail(), input.room(), deadline);
  switch (read.status) {
    case IoStatus::kOk:
      co_return take(input.tail(), read.bytes);
    case IoStatus::kEnd:
      if (!is_close_delimited()) co_return Status::kCut;
      is_done_ = true;
      has_excess_ = true;  // the connection is at its end, too
      co_return Status::kMore;
    case IoStatus::kTimeout:
      co_return Status::kTimeout;
    case IoStatus::kCancelled:
      co_return Status::kCancelled;
    default:
      co_return Status::kCut;
  }
}

}  // namespace llmproxy
