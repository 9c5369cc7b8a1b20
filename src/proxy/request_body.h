// The body of one request, read whole and within bounds: in the connection's buffer behind its head
// where it fits there, else in memory of its own.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/head.h"
#include "net/pace.h"
#include "proxy/memory_budget.h"
#include "proxy/session.h"

namespace llmproxy {

class RequestBody {
 public:
  // A body that nobody wants is read off, if it is no longer than this, so that the connection
  // stays usable.
  static constexpr size_t kDiscardMax = 256 << 10;

  RequestBody(Session& session, const http::RequestHead& head, const Limits& limits);

  // 413, before anything is read.
  MaybeError check_size() const;

  // Reads all of it, answering Expect: 100-continue first. 408, 413, 400, 503; nothing = ok.
  // `is_gone` in the end: the client left before the end of it.
  net::Step<MaybeError> read();

  // Reads off what was not read. False: it could not be (see may_discard), or did not come.
  net::Step<bool> discard();

  // False: there is too much of it, or the client waits for 100, or reading it has failed.
  bool may_discard() const;

  std::string_view bytes() const;
  bool is_read() const { return is_read_; }
  bool is_gone() const { return is_gone_; }

  // Takes head and body out of the connection's buffer and gives the memory back. Ends the head's
  // views.
  void drop();

 private:
  bool is_here() const;
  net::Task<MaybeError> read_rest();
  net::Task<bool> discard_rest();
  net::Task<MaybeError> read_sized(size_t size);
  net::Task<MaybeError> read_chunked(size_t limit);
  net::Task<MaybeError> read_more(char* data, size_t size, size_t& n);
  net::Task<void> send_continue();

  Session& session_;
  const http::RequestHead& head_;
  const Limits& limits_;
  MemoryShare share_;
  std::unique_ptr<char[]> own_;  // a long body of known size
  std::string decoded_;          // a chunked one
  size_t size_ = 0;
  size_t in_buffer_ = 0;  // bytes of the body that lie in the connection's buffer
  net::Pace pace_;
  bool is_read_ = false;
  bool has_failed_ = false;
  bool is_gone_ = false;
  bool is_dropped_ = false;
};

}  // namespace llmproxy
