// Reading of request bodies. Nothing moves in the connection's buffer while the head's views are in
// use.
#include "proxy/request_body.h"

#include <algorithm>
#include <cstring>

#include "http/chunked.h"
#include "proxy/errors.h"

namespace llmproxy {
namespace {

Error too_large(size_t limit) {
  return {413, Blame::kClient,
          "The request body is larger than " + std::to_string(limit) + " bytes."};
}

}  // namespace

RequestBody::RequestBody(Session& session, const http::RequestHead& head, const Limits& limits)
    : session_(session),
      head_(head),
      limits_(limits),
      share_(session.server.parts().memory, MemoryBudget::Use::kRequest),
      pace_(limits.body_rate_min, session.server.loop().now()) {
  if (!head.is_chunked && head.content_length.value_or(0) == 0) is_read_ = true;
}

MaybeError RequestBody::check_size() const {
  if (head_.content_length.value_or(0) > limits_.body_bytes_max) {
    return too_large(limits_.body_bytes_max);
  }
  return std::nullopt;
}

// It came with its head, as most do.
bool RequestBody::is_here() const {
  return !head_.is_chunked && *head_.content_length <= session_.input.size() - session_.head_bytes;
}

net::Step<MaybeError> RequestBody::read() {
  if (is_read_) return std::nullopt;
  if (!is_here()) return read_rest();
  in_buffer_ = size_ = static_cast<size_t>(*head_.content_length);
  is_read_ = true;
  return std::nullopt;
}

net::Task<MaybeError> RequestBody::read_rest() {
  const bool has_begun = session_.input.size() > session_.head_bytes;
  if (head_.expects_continue && !has_begun) co_await send_continue();
  MaybeError error;
  if (head_.is_chunked) {
    error = co_await read_chunked(limits_.body_bytes_max);
  } else {
    error = co_await read_sized(static_cast<size_t>(*head_.content_length));
  }
  has_failed_ = static_cast<bool>(error);
  is_read_ = !has_failed_;
  co_return error;
}

net::Task<void> RequestBody::send_continue() {
  char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
  iovec part{text, sizeof text - 1};
  co_await session_.client.write_all({&part, 1}, limits_.timeout_write);
}

net::Task<MaybeError> RequestBody::read_sized(size_t size) {
  net::Buffer& input = session_.input;
  const size_t room = input.room() + input.size() - session_.head_bytes;
  size_t have = std::min(size, input.size() - session_.head_bytes);
  if (size <= room) {
    while (have < size) {
      size_t n = 0;
      MaybeError error = co_await read_more(input.tail(), input.room(), n);
      if (error) co_return error;
      input.append(n);
      have += n;
    }
    in_buffer_ = size_ = size;
    co_return std::nullopt;
  }
  if (!share_.raise_to(beyond_block(size))) co_return no_memory();
  own_ = std::make_unique_for_overwrite<char[]>(size);
  std::memcpy(own_.get(), input.data() + session_.head_bytes, have);
  input.truncate(session_.head_bytes);
  while (have < size) {
    size_t n = 0;
    MaybeError error = co_await read_more(own_.get() + have, size - have, n);
    if (error) co_return error;
    have += n;
  }
  size_ = size;
  co_return std::nullopt;
}

net::Task<MaybeError> RequestBody::read_chunked(size_t limit) {
  net::Buffer& input = session_.input;
  http::ChunkedDecoder decoder;
  for (;;) {
    char* const raw = input.data() + session_.head_bytes;
    const size_t raw_bytes = input.size() - session_.head_bytes;
    const http::ChunkedDecoder::Step step = decoder.decode(raw, raw_bytes);
    if (step.is_invalid) co_return Error{400, Blame::kClient, std::string(step.reason)};
    const size_t size = decoded_.size() + step.payload;
    if (size > limit) co_return too_large(limit);
    if (size > decoded_.capacity()) {
      const size_t capacity = std::min(std::max(size, 2 * decoded_.capacity()), limit);
      if (!share_.raise_to(beyond_block(capacity))) co_return no_memory();
      decoded_.reserve(capacity);
    }
    decoded_.append(raw, step.payload);
    std::memmove(raw, raw + step.consumed, raw_bytes - step.consumed);
    input.truncate(session_.head_bytes + raw_bytes - step.consumed);
    if (step.is_done) co_return std::nullopt;
    size_t n = 0;
    MaybeError error = co_await read_more(input.tail(), input.room(), n);
    if (error) co_return error;
    input.append(n);
  }
}

net::Task<MaybeError> RequestBody::read_more(char* data, size_t size, size_t& n) {
  if (size == 0) co_return Error{431, Blame::kClient, "The request head is too large."};
  const MonotonicTime deadline = session_.server.loop().now() + limits_.timeout_body;
  const net::IoResult read = co_await session_.client.read_some(data, size, deadline);
  n = read.bytes;
  if (read.status == net::IoStatus::kCancelled) co_return shutting_down();
  is_gone_ = !read.ok() && read.status != net::IoStatus::kTimeout;
  if (is_gone_) {
    co_return Error{400, Blame::kClient, "The request body ended before its announced length."};
  }
  if (!read.ok()) co_return Error{408, Blame::kClient, "The request body did not arrive in time."};
  if (pace_.keeps(n, session_.server.loop().now())) co_return std::nullopt;
  co_return Error{408, Blame::kClient, "The request body arrives too slowly."};
}

bool RequestBody::may_discard() const {
  if (is_read_) return true;
  const bool has_begun = session_.input.size() > session_.head_bytes;
  const bool is_awaited = head_.expects_continue && !has_begun;
  return !has_failed_ && !is_awaited && head_.content_length.value_or(0) <= kDiscardMax;
}

net::Step<bool> RequestBody::discard() {
  if (is_read_ || !may_discard()) return bool{is_read_};
  return discard_rest();
}

net::Task<bool> RequestBody::discard_rest() {
  MaybeError error;
  if (head_.is_chunked) {
    error = co_await read_chunked(kDiscardMax);
  } else {
    error = co_await read_sized(static_cast<size_t>(*head_.content_length));
  }
  has_failed_ = static_cast<bool>(error);
  is_read_ = !has_failed_;
  co_return is_read_;
}

std::string_view RequestBody::bytes() const {
  if (in_buffer_ > 0) return session_.input.bytes().substr(session_.head_bytes, in_buffer_);
  if (own_ != nullptr) return {own_.get(), size_};
  return decoded_;
}

void RequestBody::drop() {
  if (is_dropped_) return;
  is_dropped_ = true;
  session_.input.consume(session_.head_bytes + in_buffer_);
  session_.head_bytes = in_buffer_ = size_ = 0;
  session_.input.release();
  own_.reset();
  decoded_ = {};
  share_.release();
}

}  // namespace llmproxy
