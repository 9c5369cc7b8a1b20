// Three framings (RFC 9112, section 6.3): chunked, a length, or until the connection closes.
#include "proxy/reply_body.h"

#include <algorithm>

namespace llmproxy {

using net::IoResult;
using net::IoStatus;

Error cut_error(ReplyBody::Status status) {
  Error error{502, Blame::kBackend, "The model server's answer was cut off."};
  error.code = "upstream_error";
  error.should_retry = false;
  switch (status) {
    case ReplyBody::Status::kTimeout:
      error.status = 504;
      error.code = "timeout";
      error.message = "The model server fell silent in the middle of its answer.";
      break;
    case ReplyBody::Status::kCancelled:
      error.status = 503;
      error.blame = Blame::kProxy;
      error.code = "service_unavailable";
      error.message = "The server is shutting down.";
      break;
    case ReplyBody::Status::kFull:
      error.message = "The model server's answer is too large.";
      break;
    case ReplyBody::Status::kInvalid:
      error.message = "The model server sent an invalid reply.";
      break;
    case ReplyBody::Status::kMore:
    case ReplyBody::Status::kCut:
      break;
  }
  return error;
}

ReplyBody::ReplyBody(Exchange& exchange)
    : exchange_(exchange), left_(exchange.content_length.value_or(0)) {
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

// Decodes `size` raw bytes that lie right behind the payload.
ReplyBody::Status ReplyBody::take(char* data, size_t size) {
  net::Buffer& input = exchange_.connection->input;
  if (exchange_.is_chunked) {
    const http::ChunkedDecoder::Step step = decoder_.decode(data, size);
    input.append(step.payload);
    is_done_ = step.is_done;
    is_invalid_ = step.is_invalid;
    has_excess_ = step.is_done && step.consumed < size;
    return is_invalid_ ? Status::kInvalid : Status::kMore;
  }
  if (!exchange_.content_length) {
    input.append(size);
    return Status::kMore;
  }
  const size_t payload = static_cast<size_t>(std::min<uint64_t>(left_, size));
  input.append(payload);
  left_ -= payload;
  is_done_ = left_ == 0;
  has_excess_ = payload < size;
  return Status::kMore;
}

net::Task<ReplyBody::Status> ReplyBody::more(MonotonicTime deadline, size_t limit) {
  if (is_invalid_) co_return Status::kInvalid;
  net::Buffer& input = exchange_.connection->input;
  net::Socket& socket = exchange_.connection->socket;
  if (input.empty()) {
    input.release();
    co_await socket.readable(deadline);
  }
  if (!input.make_room(limit)) co_return Status::kFull;
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
