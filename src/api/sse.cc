// Cuts a byte stream into server-sent events and reads one event's fields. No JSON here.
#include "api/sse.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace llmproxy {

namespace {

// Searched in windows: a stream that uses only one of the two line ends must not cost a search of
// the whole buffer for the other one at every line.
constexpr size_t kWindow = 512;

// The first LF or CR at or after `from`, or the size of `bytes`.
size_t find_line_end(std::string_view bytes, size_t from) {
  while (from < bytes.size()) {
    const char* begin = bytes.data() + from;
    size_t length = std::min(kWindow, bytes.size() - from);
    const void* line_feed = std::memchr(begin, '\n', length);
    if (line_feed != nullptr)
      length = static_cast<size_t>(static_cast<const char*>(line_feed) - begin);
    const void* carriage_return = std::memchr(begin, '\r', length);
    if (carriage_return != nullptr) {
      return static_cast<size_t>(static_cast<const char*>(carriage_return) - bytes.data());
    }
    if (line_feed != nullptr) return from + length;
    from += length;
  }
  return bytes.size();
}

// Neither a comment nor a field that server-sent events have; of a line that is no `data`.
bool is_other(std::string_view line) {
  if (line.empty() || line[0] == ':') return false;
  const std::string_view name = line.substr(0, line.find(':'));
  return name != "event" && name != "id" && name != "retry";
}

}  // namespace

size_t SseSplitter::next(std::string_view bytes) {
  size_t at = searched_;
  while (at < bytes.size()) {
    const char c = bytes[at];
    const bool was_after_carriage_return = after_carriage_return_;
    after_carriage_return_ = false;
    if (was_after_carriage_return && c == '\n') {
      ++at;
      continue;
    }
    if (at_line_start_ && (c == '\n' || c == '\r')) {
      ++at;
      if (c == '\r') {
        if (at < bytes.size() && bytes[at] == '\n') {
          ++at;
        } else {
          after_carriage_return_ = at == bytes.size();
        }
      }
      searched_ = 0;
      lines_ = std::exchange(line_ends_, 0);
      return at;
    }
    const size_t end = find_line_end(bytes, at);
    at_line_start_ = end < bytes.size();
    if (!at_line_start_) break;
    after_carriage_return_ = bytes[end] == '\r';
    ++line_ends_;
    at = end + 1;
  }
  searched_ = bytes.size();
  return 0;
}

void SseSplitter::forget(size_t n) {
  searched_ -= std::min(n, searched_);
}

std::string_view take_sse_line(std::string_view& rest) {
  const size_t end = find_line_end(rest, 0);
  const std::string_view line = rest.substr(0, end);
  size_t next = std::min(end + 1, rest.size());
  if (end + 1 < rest.size() && rest[end] == '\r' && rest[end + 1] == '\n') ++next;
  rest.remove_prefix(next);
  return line;
}

std::optional<std::string_view> sse_data(std::string_view line) {
  constexpr std::string_view kName = "data";
  if (!line.starts_with(kName)) return std::nullopt;
  line.remove_prefix(kName.size());
  if (line.empty()) return line;  // a field without colon has an empty value
  if (line[0] != ':') return std::nullopt;
  line.remove_prefix(1);
  if (line.starts_with(' ')) line.remove_prefix(1);
  return line;
}

SseEvent parse_sse_event(std::string_view raw, std::string& scratch) {
  if (raw.starts_with(kByteOrderMark)) raw.remove_prefix(kByteOrderMark.size());
  SseEvent event;
  bool is_joined = false;
  while (!raw.empty()) {
    const std::string_view line = take_sse_line(raw);
    if (line.starts_with("event:")) {
      event.type = line.substr(line.starts_with("event: ") ? 7 : 6);
      continue;
    }
    const std::optional<std::string_view> data = sse_data(line);
    if (!data) {
      event.has_other = event.has_other || is_other(line);
      continue;
    }
    if (!event.has_data) {
      event.data = *data;
      event.has_data = true;
      continue;
    }
    if (!is_joined) scratch.assign(event.data);
    is_joined = true;
    scratch.push_back('\n');
    scratch.append(*data);
  }
  if (is_joined) event.data = scratch;
  return event;
}

}  // namespace llmproxy
