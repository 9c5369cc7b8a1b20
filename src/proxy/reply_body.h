// The body of a backend's reply, by its framing: payload is decoded in place in the connection's
// buffer, so bytes() is what the backend meant and nothing was copied. The backend's token in it is
// masked before anybody sees it.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "http/chunked.h"
#include "net/task.h"
#include "proxy/exchange.h"
#include "proxy/secret_mask.h"

namespace llmproxy {

class ReplyBody {
 public:
  enum class Status : uint8_t {
    kMore,      // there is more payload, or the body is done
    kFull,      // longer than its limit
    kNoMemory,  // there is no room for it
    kCut,       // the connection ended before the body did
    kInvalid,   // broken framing
    kTimeout,
    kCancelled,
  };

  // Takes up what came with the head.
  explicit ReplyBody(Exchange& exchange);

  std::string_view bytes() const { return exchange_.connection->input.bytes(); }
  void consume(size_t n) { exchange_.connection->input.consume(n); }

  // Reads once. While nothing is in the buffer, none is held. The buffer has room for `limit` bytes
  // and a block more, so that a body of just that length comes to its end.
  net::Task<Status> more(MonotonicTime deadline, size_t limit);

  bool is_done() const { return is_done_; }
  bool is_close_delimited() const { return !exchange_.is_chunked && !exchange_.content_length; }
  bool is_clean() const { return is_done_ && !has_excess_; }  // the connection may serve again

  // So many bytes at the end of bytes() may be the front of a token that goes on.
  size_t unmasked() const { return is_done_ ? 0 : mask_.overlap(); }

 private:
  Status take(char* data, size_t size);
  size_t decode(char* data, size_t size);

  Exchange& exchange_;
  const SecretMask mask_;
  http::ChunkedDecoder decoder_;
  uint64_t left_ = 0;  // of a sized body
  bool is_done_ = false;
  bool is_invalid_ = false;
  bool has_excess_ = false;  // bytes after the body's end
};

// How a client is told of a body that did not come to its end. It should not try again by itself:
// the backend has worked for it.
Error cut_error(ReplyBody::Status status);

// And how the access line tells of it.
std::string_view cut_end(ReplyBody::Status status);

}  // namespace llmproxy
