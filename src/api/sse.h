// Server-sent events (WHATWG HTML, section 9.2.6): a byte stream cut into events, whatever the
// chunking and whatever the line ending (LF, CRLF, CR, mixed). A complete event is found with the
// byte that ends it, never later. Bytes in, values out; nothing is copied.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace llmproxy {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Finds where events end. Remembers how far it has looked, so no byte is searched twice.
class SseSplitter {
 public:
  // `bytes` are the bytes not yet taken: those of the last call that returned 0, and what has
  // arrived since. Returns the length of the first complete event with its empty line, or 0. The
  // next call gets the bytes after it. A stray LF of a CRLF that was split by the network opens the
  // next event's bytes.
  size_t next(std::string_view bytes);

  // All events so far are complete, and no line end may still go on.
  bool is_between_events() const {
    return searched_ == 0 && at_line_start_ && !after_carriage_return_;
  }

  // How many lines the event that next() found last has, its empty one not counted.
  size_t lines() const { return lines_; }

  // How many bytes at the front of an unfinished event have been searched; they may be sent on
  // early by forget(n), which drops them from the caller's view (an event beyond the caller's
  // bound).
  void forget(size_t n);

 private:
  size_t searched_ = 0;                 // bytes at the front that have been searched
  size_t lines_ = 0;                    // of the event that was found last
  size_t line_ends_ = 0;                // in the searched bytes
  bool at_line_start_ = true;           // nothing of the current line has been seen
  bool after_carriage_return_ = false;  // an LF now belongs to the line end before it
};

// The first line of `rest` without its line end; `rest` moves past both. An unfinished line counts.
std::string_view take_sse_line(std::string_view& rest);

// The value of a `data` line, without the one blank after the colon; nothing for other lines.
std::optional<std::string_view> sse_data(std::string_view line);

struct SseEvent {
  std::string_view type;  // of `event:`; "" where there is none
  std::string_view
      data;  // all `data:` lines joined by LF; into `raw` where it is one line, else `scratch`
  bool has_data = false;
  bool has_other = false;  // a line that is neither a comment nor a field of server-sent events
};

// Reads one complete event (or the last, unfinished one at the end of a stream). A byte order mark
// at the front is skipped.
SseEvent parse_sse_event(std::string_view raw, std::string& scratch);

}  // namespace llmproxy
