// The log: one line an entry, to stderr. A bounded queue stands between the caller and the thread
// that writes, so no caller ever waits for the reader of stderr: when the queue is full the line is
// dropped, and the number dropped is logged as soon as there is room. A part of the queue is kept
// for errors: access lines must not push out what a person bills by.
//
// Line: "2026-11-23T14:05:09.123Z INFO text". Control characters, and bytes that are no UTF-8, are
// written as \xNN, so that no client can forge or colour a line.
// A queued line never holds a secret: callers pass ids, never tokens, urls with passwords or
// prompts.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

namespace llmproxy {

// Named as in the original's config (Python's logging levels).
enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError, kCritical };

class Log {
 public:
  static constexpr std::chrono::milliseconds kGather{5};  // from a first line to its write
  static constexpr size_t kQueueBytesMax = size_t{8} << 20;
  static constexpr size_t kErrorBytesKept = size_t{4} << 20;  // of it, for kError and above
  // The destructor waits this long for a stalled reader.
  static constexpr std::chrono::milliseconds kDrainMax{2000};

  // `fd` stays the caller's, and its O_NONBLOCK flag as it is: others may share it.
  explicit Log(int fd = 2, LogLevel level = LogLevel::kInfo,
               std::chrono::milliseconds drain_max = kDrainMax);
  ~Log();  // writes what is queued, at most for `drain_max`; then what is left is lost
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void set_level(LogLevel level) { level_.store(level, std::memory_order_relaxed); }
  bool is_on(LogLevel level) const { return level >= level_.load(std::memory_order_relaxed); }

  // Queues one line if its level is on. Any thread. `text` need not end in a newline.
  void write(LogLevel level, std::string_view text);

  // The same whatever the level that is on: for lines that other programs wait for, and for those
  // that a person bills by.
  void announce(LogLevel level, std::string_view text);

  template <class... Args>
  void debug(fmt::format_string<Args...> format, Args&&... args) {
    print(LogLevel::kDebug, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) {
    print(LogLevel::kInfo, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) {
    print(LogLevel::kWarning, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) {
    print(LogLevel::kError, format, std::forward<Args>(args)...);
  }

  // Blocks until all that was queued before is written, or `limit` has passed.
  void flush(std::chrono::milliseconds limit);

  uint64_t dropped() const;  // lines lost so far, whatever the reason

 private:
  template <class... Args>
  void print(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
    if (!is_on(level)) return;
    fmt::memory_buffer text;
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
    write(level, {text.data(), text.size()});
  }

  // Shared with the writer thread, which is left behind when write(2) itself does not return.
  struct Queue;
  static void write_out(Queue& queue);

  std::atomic<LogLevel> level_;
  const std::chrono::milliseconds drain_max_;
  const std::shared_ptr<Queue> queue_;
  std::thread writer_;
};

}  // namespace llmproxy
