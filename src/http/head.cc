// Strict parser of request and response heads. An incomplete head costs one search for its end; a
// whole one is then read once, byte class by byte class. It decides no policy: methods, paths and
// codings that are well-formed pass, whoever calls may refuse them.
#include "http/head.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/hex.h"
#include "http/characters.h"

namespace llmproxy::http {
namespace {

constexpr size_t kMethodBytesMax = 32;
constexpr size_t kVersionBytes = 8;  // HTTP/1.1
constexpr size_t kContentLengthDigits =
    19;                                     // 10^19 - 1 is the longest that never overflows 64 bits
constexpr size_t kPaddedLengthDigits = 18;  // leading zeros: some clients pad, nobody to 19 digits
constexpr size_t kPortDigits = 5;
constexpr unsigned kPortMax = 65535;
constexpr size_t kHeadersTypical = 24;  // what an SDK sends fits without growing twice

// No refusal while `status` is 0.
struct Refusal {
  int status = 0;
  std::string_view reason{};
  explicit operator bool() const { return status != 0; }
};

bool is_same_letter(char a, char b) {
  return to_lower(a) == to_lower(b);
}

// All bytes of a word at once: they are the same, or letters that differ in the bit for case.
template <class Word>
bool is_same_word(const char* a, const char* b) {
  constexpr Word kEach = Word(~Word{0}) / 0xff;  // 1 in each byte
  constexpr Word kCase = kEach * 0x20, kLow = kEach * 0x7f, kTop = kEach * 0x80;
  Word x, y;
  std::memcpy(&x, a, sizeof x);
  std::memcpy(&y, b, sizeof y);
  const Word difference = x ^ y, lower = x | kCase;
  if ((difference & ~kCase) != 0) return false;
  const Word from_a = (lower & kLow) + kEach * (0x80 - 'a');    // its top bits: from 'a' on,
  const Word beyond_z = (lower & kLow) + kEach * (0x7f - 'z');  // beyond 'z'
  const Word letters = from_a & ~beyond_z & ~lower & kTop;
  return (difference & ~(letters >> 2)) == 0;
}

// Of at least a word; the last one overlaps the one before.
template <class Word>
bool is_same(const char* a, const char* b, size_t size) {
  for (size_t at = 0; at + sizeof(Word) < size; at += sizeof(Word)) {
    if (!is_same_word<Word>(a + at, b + at)) return false;
  }
  return is_same_word<Word>(a + size - sizeof(Word), b + size - sizeof(Word));
}

ParseResult incomplete() {
  return {};
}
ParseResult invalid(int status, std::string_view reason) {
  return {Parse::kInvalid, 0, status, reason};
}
Refusal bad(std::string_view reason) {
  return {400, reason};
}

bool is_all(std::string_view text, CharacterClass character_class) {
  return std::all_of(text.begin(), text.end(),
                     [character_class](char c) { return is_in(c, character_class); });
}

// Searches for the empty line, from the start of a line on. A line feed alone is told at once: such
// a head would never end. Looks at no byte beyond the limit.
ParseResult find_end(std::string_view bytes, size_t line, size_t head_bytes_max) {
  const size_t end = std::min(bytes.size(), head_bytes_max);
  while (line < end) {
    const void* found = std::memchr(bytes.data() + line, '\n', end - line);
    if (found == nullptr) break;
    const auto at = static_cast<size_t>(static_cast<const char*>(found) - bytes.data());
    if (at == 0 || bytes[at - 1] != '\r') return invalid(400, "line feed without carriage return");
    if (at == line + 1) return {Parse::kDone, at + 1, 0, {}};
    line = at + 1;
  }
  if (bytes.size() >= head_bytes_max) return invalid(431, "head too large");
  return incomplete();
}

// Reads the field lines from `at` to the end of `lines`, whose last bytes are an empty line: its
// carriage return is in no class, so every scan ends there.
Refusal read_fields(std::string_view lines, size_t headers_max, std::vector<Header>& headers) {
  if (headers.capacity() == 0) headers.reserve(std::min(headers_max, kHeadersTypical));
  const char* at = lines.data();
  while (*at != '\r') {
    const char* const name = at;
    while (is_in(*at, kTokenCharacter)) ++at;
    if (*at != ':' || at == name) {
      return is_blank(*name) ? bad("folded header line") : bad("malformed header name");
    }
    const std::string_view name_view(name, static_cast<size_t>(at - name));
    ++at;
    while (is_blank(*at)) ++at;
    const char* const value = at;
    while (is_in(*at, kValueCharacter)) ++at;
    if (at[0] != '\r' || at[1] != '\n') return bad("control character in a header value");
    const char* end = at;
    while (end > value && is_blank(end[-1])) --end;
    if (headers.size() == headers_max) return {431, "too many headers"};
    headers.push_back({name_view, {value, static_cast<size_t>(end - value)}});
    at += 2;
  }
  // The search stopped at the first empty line, so this is it unless the carriage return stands
  // alone.
  return at + 2 == lines.data() + lines.size() ? Refusal{}
                                               : bad("carriage return without line feed");
}

std::optional<uint64_t> parse_content_length(std::string_view value) {
  if (value.empty() || value.size() > kContentLengthDigits) return std::nullopt;
  if (value.size() > kPaddedLengthDigits && value.front() == '0') return std::nullopt;
  uint64_t length = 0;
  for (const char c : value) {
    if (!is_digit(c)) return std::nullopt;
    length = length * 10 + static_cast<uint64_t>(c - '0');
  }
  return length;
}

// How long the body is and whether the connection outlives it (RFC 9112 sections 6 and 9.3).
struct Framing {
  std::optional<uint64_t> content_length;
  bool is_chunked = false;
  bool has_close = false;
  bool has_keep_alive = false;

  Refusal read(const Header& header);
  Refusal check(int minor_version) const;
  bool keep_alive(int minor_version) const {
    return !has_close && (minor_version >= 1 || has_keep_alive);
  }
};

Refusal Framing::read(const Header& header) {
  switch (header.name.size()) {
    case 10:
      if (!equals_ignoring_case(header.name, "Connection")) break;
      has_close = has_close || has_list_member(header.value, "close");
      has_keep_alive = has_keep_alive || has_list_member(header.value, "keep-alive");
      break;
    case 14:
      if (!equals_ignoring_case(header.name, "Content-Length")) break;
      // Also when both say the same: the next parser may count differently.
      if (content_length) return bad("more than one Content-Length");
      content_length = parse_content_length(header.value);
      if (!content_length) return bad("malformed Content-Length");
      break;
    case 17:
      if (!equals_ignoring_case(header.name, "Transfer-Encoding")) break;
      if (is_chunked) return bad("more than one Transfer-Encoding");
      if (!equals_ignoring_case(header.value, "chunked")) {
        return bad("Transfer-Encoding is not chunked");
      }
      is_chunked = true;
      break;
    default:
      break;
  }
  return {};
}

Refusal Framing::check(int minor_version) const {
  if (!is_chunked) return {};
  if (content_length) return bad("both Content-Length and Transfer-Encoding");
  if (minor_version == 0) return bad("Transfer-Encoding in HTTP/1.0");
  return {};
}

bool is_registered_name(std::string_view host) {
  for (size_t i = 0; i < host.size(); ++i) {
    if (host[i] != '%') {
      if (!is_in(host[i], kHostCharacter)) return false;
      continue;
    }
    if (host.size() - i < 3 || hex_value(host[i + 1]) < 0 || hex_value(host[i + 2]) < 0)
      return false;
    i += 2;
  }
  return !host.empty();
}

bool is_port(std::string_view text) {
  if (text.empty() || text.size() > kPortDigits) return false;
  unsigned port = 0;
  for (const char c : text) {
    if (!is_digit(c)) return false;
    port = port * 10 + static_cast<unsigned>(c - '0');
  }
  return port <= kPortMax;
}

// uri-host [ ":" port ] (RFC 9110 section 4.2); no user information, no empty host. An empty port
// is legal in a URI, not in authority-form.
bool is_authority(std::string_view text, bool needs_port) {
  size_t host_end = 0;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos || close == 1) return false;
    for (const char c : text.substr(1, close - 1)) {
      if (hex_value(c) < 0 && c != ':' && c != '.') return false;
    }
    host_end = close + 1;
  } else {
    host_end = std::min(text.find(':'), text.size());
    if (!is_registered_name(text.substr(0, host_end))) return false;
  }
  const std::string_view rest = text.substr(host_end);
  if (rest.empty()) return !needs_port;
  if (rest.front() != ':') return false;
  return is_port(rest.substr(1)) || (rest.size() == 1 && !needs_port);
}

std::string_view without_query(std::string_view path_and_query) {
  return path_and_query.substr(0, path_and_query.find('?'));
}

Refusal read_absolute_form(RequestHead& head) {
  size_t scheme = 0;
  for (const std::string_view prefix : {"http://", "https://"}) {
    if (equals_ignoring_case(head.target.substr(0, prefix.size()), prefix)) scheme = prefix.size();
  }
  if (scheme == 0) return bad("malformed request target");
  const size_t end = std::min(head.target.find_first_of("/?", scheme), head.target.size());
  if (!is_authority(head.target.substr(scheme, end - scheme), false)) {
    return bad("malformed authority in the request target");
  }
  head.path = without_query(head.target.substr(end));
  // An empty path means `/` (RFC 9110 section 4.2.3); the scheme ends in one.
  if (head.path.empty()) head.path = head.target.substr(scheme - 1, 1);
  return {};
}

Refusal read_target(RequestHead& head) {
  if (head.target.empty() || !is_all(head.target, kTargetCharacter)) {
    return bad("malformed request target");
  }
  if (head.method == "CONNECT") {
    return is_authority(head.target, true) ? Refusal{} : bad("malformed request target");
  }
  if (head.target.front() == '/') {
    head.path = without_query(head.target);
    return {};
  }
  if (head.target == "*") {
    return head.method == "OPTIONS" ? Refusal{} : bad("malformed request target");
  }
  return read_absolute_form(head);
}

// `version` is what stands in the place of HTTP/1.1: exact case, one digit each.
Refusal check_version(std::string_view version) {
  if (version == "HTTP/1.1" || version == "HTTP/1.0") return {};
  const bool is_version = version.size() == kVersionBytes && version.starts_with("HTTP/") &&
                          is_digit(version[5]) && version[6] == '.' && is_digit(version[7]);
  if (is_version) return {505, "HTTP version is neither 1.0 nor 1.1"};
  return bad("malformed request line");
}

// The end of a line must name the version, so that HTTP/0.9 (which sends no more lines) does not
// wait.
Refusal check_request_line_end(std::string_view line) {
  if (line.size() <= kVersionBytes || line[line.size() - kVersionBytes - 1] != ' ') {
    return bad("malformed request line");
  }
  return check_version(line.substr(line.size() - kVersionBytes));
}

Refusal read_request_line(std::string_view line, const HeadLimits& limits, RequestHead& head) {
  head.minor_version = line.back() - '0';
  line.remove_suffix(kVersionBytes + 1);
  const size_t blank = line.find(' ');
  if (blank == std::string_view::npos) return bad("malformed request line");
  head.method = line.substr(0, blank);
  if (head.method.empty() || head.method.size() > kMethodBytesMax ||
      !is_all(head.method, kTokenCharacter)) {
    return bad("malformed method");
  }
  head.target = line.substr(blank + 1);
  if (head.target.size() > limits.target_bytes_max) return {414, "request target too long"};
  return read_target(head);
}

Refusal interpret_request(RequestHead& head) {
  Framing framing;
  size_t hosts = 0;
  size_t expectations = 0;
  bool expects_only_continue = true;
  for (const Header& header : head.headers) {
    if (const Refusal refusal = framing.read(header)) return refusal;
    if (equals_ignoring_case(header.name, "Host")) {
      if (++hosts > 1) return bad("more than one Host");
      if (!is_authority(header.value, false)) return bad("malformed Host");
    } else if (equals_ignoring_case(header.name, "Expect")) {
      ++expectations;
      expects_only_continue = equals_ignoring_case(header.value, "100-continue");
    } else if (equals_ignoring_case(header.name, "Upgrade")) {
      head.wants_upgrade = true;
    }
  }
  if (const Refusal refusal = framing.check(head.minor_version)) return refusal;
  if (hosts == 0 && head.minor_version >= 1) return bad("Host is missing");
  if (expectations > 1 || !expects_only_continue) return {417, "only 100-continue may be expected"};
  head.content_length = framing.content_length;
  head.is_chunked = framing.is_chunked;
  head.keep_alive = framing.keep_alive(head.minor_version);
  // A 1.0 client cannot understand a 100 (RFC 9110 section 10.1.1).
  head.expects_continue = expectations == 1 && head.minor_version >= 1;
  return {};
}

bool has_no_body(int status) {
  return status < 200 || status == 204 || status == 304;
}

// "HTTP/1.1 200 OK"; the reason phrase may be empty, and so may the blank before it: it is in the
// grammar of RFC 9112 section 4, but servers leave it out.
Refusal read_status_line(std::string_view line, ResponseHead& head) {
  constexpr size_t kStatusAt = kVersionBytes + 1;
  constexpr size_t kStatusEnd = kStatusAt + 3;
  if (line.size() < kStatusEnd || line[kVersionBytes] != ' ') return bad("malformed status line");
  if (const Refusal refusal = check_version(line.substr(0, kVersionBytes))) return refusal;
  head.minor_version = line[kVersionBytes - 1] - '0';
  for (const char c : line.substr(kStatusAt, 3)) {
    if (!is_digit(c)) return bad("malformed status");
    head.status = head.status * 10 + (c - '0');
  }
  if (head.status < 100 || head.status > 599) return bad("status out of range");
  const std::string_view rest = line.substr(kStatusEnd);
  if (!rest.empty() && (rest.front() != ' ' || !is_all(rest, kValueCharacter))) {
    return bad("malformed reason phrase");
  }
  return {};
}

Refusal interpret_response(ResponseHead& head) {
  Framing framing;
  for (const Header& header : head.headers) {
    if (const Refusal refusal = framing.read(header)) return refusal;
  }
  if (const Refusal refusal = framing.check(head.minor_version)) return refusal;
  head.has_no_body = has_no_body(head.status);
  // RFC 9110 section 8.6 and RFC 9112 section 6.1 forbid both; a length of 0 is common and
  // harmless. A 304 may tell the length of what it does not send.
  if (head.has_no_body && head.status != 304 &&
      (framing.is_chunked || framing.content_length.value_or(0) != 0)) {
    return bad("a status without body has one");
  }
  head.content_length = framing.content_length;
  head.is_chunked = framing.is_chunked;
  const bool ends_by_close = !head.has_no_body && !framing.is_chunked && !framing.content_length;
  head.keep_alive = framing.keep_alive(head.minor_version) && !ends_by_close;
  return {};
}

// No view of a refused head may be used.
template <class Head>
ParseResult finish(const Refusal& refusal, size_t consumed, Head& head) {
  if (!refusal) return {Parse::kDone, consumed, 0, {}};
  head.clear();
  return invalid(refusal.status, refusal.reason);
}

// A line of the head without its line end, which is known to be there.
std::string_view line_at(std::string_view bytes, size_t begin) {
  return bytes.substr(begin, bytes.find('\n', begin) - 1 - begin);
}

// Whoever sent the reply is told nothing: the client gets 502 for whatever is wrong with it.
ParseResult as_response(ParseResult result) {
  if (result.state == Parse::kInvalid) result.status = 502;
  return result;
}

}  // namespace

ParseResult parse_request_head(std::string_view bytes, const HeadLimits& limits,
                               RequestHead& head) {
  head.clear();
  const size_t begin = bytes.starts_with("\r\n") ? 2 : 0;
  if (bytes.size() == begin || bytes == "\r") return incomplete();
  if (!is_in(bytes[begin], kTokenCharacter)) return invalid(400, "malformed request line");

  const size_t line_bytes_max =
      begin + kMethodBytesMax + 1 + limits.target_bytes_max + 1 + kVersionBytes + 2;
  const size_t window = std::min(line_bytes_max, limits.head_bytes_max);
  const size_t line_feed = bytes.substr(0, window).find('\n', begin);
  if (line_feed == std::string_view::npos) {
    if (bytes.size() < window) return incomplete();
    if (window < line_bytes_max) return invalid(431, "head too large");
    return invalid(414, "request target too long");
  }
  if (bytes[line_feed - 1] != '\r') return invalid(400, "line feed without carriage return");
  const std::string_view line = bytes.substr(begin, line_feed - 1 - begin);
  if (const Refusal refusal = check_request_line_end(line)) {
    return invalid(refusal.status, refusal.reason);
  }

  const ParseResult end = find_end(bytes, line_feed + 1, limits.head_bytes_max);
  if (end.state != Parse::kDone) return end;
  Refusal refusal = read_request_line(line, limits, head);
  if (!refusal) {
    const std::string_view fields = bytes.substr(line_feed + 1, end.consumed - line_feed - 1);
    refusal = read_fields(fields, limits.headers_max, head.headers);
  }
  if (!refusal) refusal = interpret_request(head);
  return finish(refusal, end.consumed, head);
}

ParseResult parse_response_head(std::string_view bytes, const HeadLimits& limits,
                                ResponseHead& head) {
  constexpr std::string_view kStart = "HTTP/1.";
  head.clear();
  const size_t known = std::min(bytes.size(), kStart.size());
  if (bytes.substr(0, known) != kStart.substr(0, known)) return invalid(502, "not HTTP/1.x");
  const ParseResult end = find_end(bytes, 0, limits.head_bytes_max);
  if (end.state != Parse::kDone) return as_response(end);
  const std::string_view line = line_at(bytes, 0);
  Refusal refusal = read_status_line(line, head);
  if (!refusal) {
    const size_t fields_at = line.size() + 2;
    refusal = read_fields(bytes.substr(fields_at, end.consumed - fields_at), limits.headers_max,
                          head.headers);
  }
  if (!refusal) refusal = interpret_response(head);
  return as_response(finish(refusal, end.consumed, head));
}

bool detail::same_ignoring_case(const char* a, const char* b, size_t size) {
  if (size >= sizeof(uint64_t)) return is_same<uint64_t>(a, b, size);
  if (size >= sizeof(uint32_t)) return is_same<uint32_t>(a, b, size);
  return std::equal(a, a + size, b, is_same_letter);
}

bool has_list_member(std::string_view value, std::string_view token) {
  while (true) {
    const size_t comma = value.find(',');
    if (equals_ignoring_case(trim(value.substr(0, comma)), token)) return true;
    if (comma == std::string_view::npos) return false;
    value.remove_prefix(comma + 1);
  }
}

namespace {

const Header* find_header(const std::vector<Header>& headers, std::string_view name) {
  for (const Header& header : headers) {
    if (equals_ignoring_case(header.name, name)) return &header;
  }
  return nullptr;
}

// Everything as new, but for the room already allocated.
template <class Head>
void clear_head(Head& head) {
  std::vector<Header> headers = std::move(head.headers);
  headers.clear();
  head = Head{};
  head.headers = std::move(headers);
}

}  // namespace

const Header* RequestHead::find(std::string_view name) const {
  return find_header(headers, name);
}

size_t RequestHead::count(std::string_view name) const {
  return static_cast<size_t>(std::count_if(
      headers.begin(), headers.end(),
      [name](const Header& header) { return equals_ignoring_case(header.name, name); }));
}

void RequestHead::clear() {
  clear_head(*this);
}

const Header* ResponseHead::find(std::string_view name) const {
  return find_header(headers, name);
}

void ResponseHead::clear() {
  clear_head(*this);
}

}  // namespace llmproxy::http
