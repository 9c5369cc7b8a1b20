// The queue between the callers and stderr, and the thread that empties it. Rotates nothing, opens
// no files: who wants a file redirects stderr.
#include "base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <string>

#include "base/clock.h"
#include "base/text.h"
#include "base/thread_name.h"

namespace llmproxy {

namespace {

using namespace std::chrono_literals;

// A pipe that poll(2) calls writable takes this much without blocking, and in one piece (PIPE_BUF).
constexpr size_t kWriteBytesMax = 4096;
// How soon the writer notices that it is to give up.
constexpr int kPollMs = 20;
// How long the destructor waits for a writer that was told to give up. Only one that hangs inside
// write(2) takes longer (a terminal that is stopped after poll(2) called it writable).
constexpr auto kGiveUpMax = 200ms;

std::string_view level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "DEBUG";
    case LogLevel::kInfo:
      return "INFO";
    case LogLevel::kWarning:
      return "WARNING";
    case LogLevel::kError:
      return "ERROR";
    case LogLevel::kCritical:
      break;
  }
  return "CRITICAL";
}

void append_escaped(std::string& line, std::string_view text) {
  while (!text.empty()) {
    size_t length = printable_ascii_length(text);
    if (length == 0) length = printable_length(text);
    if (length > 0) {
      line += text.substr(0, length);
    } else {
      fmt::format_to(std::back_inserter(line), "\\x{:02x}", static_cast<uint8_t>(text[0]));
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
}

// Of now. Many lines are of one millisecond.
const std::string& time_stamp() {
  thread_local WallMs formatted_for = -1;
  thread_local std::string text;
  const WallMs now = wall_now_ms();
  if (std::exchange(formatted_for, now) != now) text = format_utc(now);
  return text;
}

void format_line(std::string& line, LogLevel level, std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  line += time_stamp();
  line += ' ';
  line += level_name(level);
  line += ' ';
  append_escaped(line, text);
  line += '\n';
}

// What one write(2) takes: whole lines, so that other writers of the same pipe never cut one.
size_t piece_length(std::string_view lines) {
  if (lines.size() <= kWriteBytesMax) return lines.size();
  const size_t end = lines.rfind('\n', kWriteBytesMax - 1);
  return end == std::string_view::npos ? kWriteBytesMax : end + 1;
}

// False when `abandon` was set before there was room.
bool wait_for_room(int fd, const std::atomic<bool>& abandon) {
  pollfd entry{fd, POLLOUT, 0};
  while (!abandon.load(std::memory_order_relaxed)) {
    if (poll(&entry, 1, kPollMs) > 0) return true;  // room, or an error that write(2) will name
  }
  return false;
}

// Returns the number of lines that could not be written.
uint64_t write_all(int fd, std::string_view lines, const std::atomic<bool>& abandon) {
  while (!lines.empty() && wait_for_room(fd, abandon)) {
    const ssize_t written = write(fd, lines.data(), piece_length(lines));
    if (written >= 0) {
      lines.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR && errno != EAGAIN) {
      break;
    }
  }
  return static_cast<uint64_t>(std::count(lines.begin(), lines.end(), '\n'));
}

}  // namespace

struct Log::Queue {
  explicit Queue(int to) : fd(to) {}

  const int fd;
  std::atomic<uint64_t> dropped_total{0};
  std::atomic<bool> abandon{false};

  std::mutex mutex;  // guards all below
  std::condition_variable queued;
  std::condition_variable written;
  std::string lines;
  uint64_t dropped_untold = 0;  // since the last line that told of drops
  uint64_t bytes_queued = 0;    // ever
  uint64_t bytes_done = 0;      // ever: written or given up
  bool is_idle = false;         // the writer waits for `queued`
  bool is_awaited = false;      // flush(): gather no longer
  bool is_stopping = false;
  bool has_ended = false;
};

Log::Log(int fd, LogLevel level, std::chrono::milliseconds drain_max)
    : level_(level), drain_max_(drain_max), queue_(std::make_shared<Queue>(fd)) {
  // The writer takes no signals: the process's belong to main, and a reader that went away shows as
  // EPIPE instead of SIGPIPE.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  writer_ = std::thread([queue = queue_] { write_out(*queue); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Log::~Log() {
  const auto ended = [this] { return queue_->has_ended; };
  bool is_joinable = false;
  {
    std::unique_lock lock(queue_->mutex);
    queue_->is_stopping = true;
    queue_->queued.notify_one();
    if (!queue_->written.wait_for(lock, drain_max_, ended)) queue_->abandon = true;
    is_joinable = queue_->written.wait_for(lock, kGiveUpMax, ended);
  }
  if (is_joinable) {
    writer_.join();
  } else {
    writer_.detach();
  }
}

void Log::write(LogLevel level, std::string_view text) {
  if (is_on(level)) announce(level, text);
}

void Log::announce(LogLevel level, std::string_view text) {
  thread_local std::string line;  // its memory is kept for the next
  line.clear();
  format_line(line, level, text);
  bool must_wake = false;
  {
    const std::lock_guard lock(queue_->mutex);
    const size_t room = kQueueBytesMax - (level < LogLevel::kError ? kErrorBytesKept : 0);
    if (queue_->lines.size() + line.size() > room) {
      ++queue_->dropped_untold;
      queue_->dropped_total.fetch_add(1, std::memory_order_relaxed);
    } else {
      queue_->lines += line;
      queue_->bytes_queued += line.size();
    }
    must_wake = std::exchange(queue_->is_idle, false);
  }
  if (must_wake) queue_->queued.notify_one();
}

void Log::flush(std::chrono::milliseconds limit) {
  std::unique_lock lock(queue_->mutex);
  const uint64_t target = queue_->bytes_queued;
  queue_->is_awaited = true;
  queue_->queued.notify_one();
  queue_->written.wait_for(lock, limit, [&] { return queue_->bytes_done >= target; });
  queue_->is_awaited = false;
}

uint64_t Log::dropped() const {
  return queue_->dropped_total.load(std::memory_order_relaxed);
}

// The writer thread: takes all that was queued within kGather at once.
void Log::write_out(Queue& queue) {
  name_thread("log");
  std::string batch;
  std::unique_lock lock(queue.mutex);
  for (;;) {
    while (queue.lines.empty() && queue.dropped_untold == 0 && !queue.is_stopping) {
      queue.is_idle = true;
      queue.queued.wait(lock);
    }
    queue.is_idle = false;
    if (queue.lines.empty() && queue.dropped_untold == 0) break;
    // A wake-up of this thread for every line would cost more than the line.
    queue.queued.wait_for(lock, kGather, [&] { return queue.is_stopping || queue.is_awaited; });

    batch.clear();
    batch.swap(queue.lines);
    const size_t bytes = batch.size();
    const uint64_t dropped = std::exchange(queue.dropped_untold, 0);
    lock.unlock();
    if (dropped > 0) {
      format_line(batch, LogLevel::kWarning,
                  fmt::format("{} log lines dropped: stderr is read too slowly", dropped));
    }
    const uint64_t lost = write_all(queue.fd, batch, queue.abandon);
    queue.dropped_total.fetch_add(lost, std::memory_order_relaxed);
    lock.lock();
    queue.bytes_done += bytes;
    queue.written.notify_all();
  }
  queue.has_ended = true;
  queue.written.notify_all();
}

}  // namespace llmproxy
