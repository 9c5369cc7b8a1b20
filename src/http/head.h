// Request and response heads of HTTP/1.1 (RFC 9112), parsed strictly from the connection's own
// buffer. Bytes in, values out: no sockets, no clocks. All views point into the bytes handed in and
// die with them. Strict means: CRLF only, no folded lines, token names without blanks before the
// colon, no control characters in values, one Host, one Content-Length of digits, no
// Transfer-Encoding but `chunked`, never both of them; whatever is ambiguous is refused, never
// repaired.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace llmproxy::http {

struct Header {
  std::string_view name;   // as sent
  std::string_view value;  // without blanks around it
};

namespace detail {
bool same_ignoring_case(const char* a, const char* b, size_t size);
}
// ASCII case-insensitive.
inline bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() && detail::same_ignoring_case(a.data(), b.data(), a.size());
}

struct HeadLimits {
  size_t head_bytes_max = 32 << 10;
  size_t headers_max = 100;
  size_t target_bytes_max = 8 << 10;
};

struct RequestHead {
  std::string_view method;
  std::string_view target;  // as sent
  std::string_view path;    // of origin or absolute form, before `?`
  int minor_version = 1;    // HTTP/1.0 or 1.1
  std::vector<Header> headers;

  std::optional<uint64_t> content_length;
  bool is_chunked = false;
  bool keep_alive = true;         // by version and Connection
  bool expects_continue = false;  // Expect: 100-continue
  bool wants_upgrade = false;     // Upgrade present

  const Header* find(std::string_view name) const;  // the first of that name
  size_t count(std::string_view name) const;
  void clear();  // empties, keeps the capacity
};

struct ResponseHead {
  int status = 0;
  int minor_version = 1;
  std::vector<Header> headers;

  std::optional<uint64_t> content_length;
  bool is_chunked = false;
  bool keep_alive = true;
  // RFC 9112 section 6.3 for a reply to POST or GET: chunked, else length, else until the
  // connection closes; 1xx, 204 and 304 have no body.
  bool has_no_body = false;

  const Header* find(std::string_view name) const;
  void clear();
};

enum class Parse : uint8_t { kIncomplete, kDone, kInvalid };

struct ParseResult {
  Parse state = Parse::kIncomplete;
  size_t consumed = 0;        // kDone: bytes of the head, its empty line included
  int status = 0;             // kInvalid: 400, 414, 417, 431 or 505; of a response always 502
  std::string_view reason{};  // kInvalid: static text, fit for the client
};

// Parses from the start of `bytes` each time: callers try again when more has arrived; an attempt
// on an incomplete head costs one search for its end. Empty lines before a request line are refused
// but for one CRLF (RFC 9112 section 2.2).
ParseResult parse_request_head(std::string_view bytes, const HeadLimits& limits, RequestHead& head);
ParseResult parse_response_head(std::string_view bytes, const HeadLimits& limits,
                                ResponseHead& head);

// True if `value`, a comma-separated list, has `token` as a member, in any case.
bool has_list_member(std::string_view value, std::string_view token);

}  // namespace llmproxy::http
