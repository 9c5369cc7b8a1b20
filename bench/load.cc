// Requests in a closed loop over epoll, and the clocks of the process that they go through.
#include "load.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <sstream>
#include <string_view>
#include <thread>

#include "backend.h"
#include "process.h"

namespace llmproxy::bench {
namespace {

constexpr std::string_view kStreamEnd = "data: [DONE]\n\n";
constexpr double kNsPerUs = 1000;

// CPU of a process, all its threads, in nanoseconds: what /proc/PID/stat shows in hundredths of
// seconds.
int64_t cpu_ns(pid_t pid) {
  clockid_t clock{};
  timespec used{};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0) {
    throw Failure("a measured process has ended");
  }
  return int64_t{used.tv_sec} * 1'000'000'000 + used.tv_nsec;
}

// Of the thread that used most: the event loop.
int64_t busiest_thread_ns(pid_t pid) {
  int64_t most = 0;
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid))) {
    int64_t used = 0;
    std::istringstream(read_file(task.path() / "schedstat")) >> used;
    most = std::max(most, used);
  }
  return most;
}

}  // namespace

Load::Load(uint16_t port, const std::string& token, Lane lane, size_t connections)
    : token_(token), lane_(lane), epoll_(epoll_create1(EPOLL_CLOEXEC)), connections_(connections) {
  for (Connection& connection : connections_) {
    connection.fd = connect_to(port);
    epoll_event event{.events = EPOLLIN, .data = {.ptr = &connection}};
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection.fd.get(), &event) != 0) {
      fail_errno("epoll_ctl");
    }
  }
}

void Load::send_next(Connection& connection, int64_t& sequence, Bills& bills) {
  connection.reply.reset();
  connection.is_waiting = true;
  const std::string request = make_request(token_, lane_ == kBurst, ++sequence);
  connection.sent_ns = monotonic_ns();
  send_all(connection.fd.get(), request);
  bills.emplace_hint(
      bills.end(), sequence,
      lane_ == kBurst ? static_cast<int64_t>(kEventsPerStream) : kPlainCompletionTokens);
}

void Load::check(const ReplyReader& reply) const {
  const bool is_right =
      lane_ == kJson ? reply.body().size() == kPlainBodyBytes
                     : reply.body().size() == kEventsPerStream * kEventBytes + kStreamEnd.size();
  if (reply.status() == "200" && is_right) return;
  throw Failure(
      fmt::format("status {}, not the reply of the backend:\n{}", reply.status(), reply.body()));
}

void Load::read_some(Connection& connection) {
  std::array<char, 65536> bytes;
  const ssize_t size = recv(connection.fd.get(), bytes.data(), bytes.size(), 0);
  if (size <= 0 || !connection.is_waiting) throw Failure("a connection was closed");
  connection.reply.feed({bytes.data(), static_cast<size_t>(size)});
  if (!connection.reply.is_done()) return;
  latencies_.add(static_cast<double>(monotonic_ns() - connection.sent_ns) / kNsPerUs);
  check(connection.reply);
  connection.is_waiting = false;
}

int64_t Load::run(int64_t& sequence, Bills& bills) {
  constexpr size_t kEventsMax = 64;
  const int silence_ms = static_cast<int>(std::chrono::milliseconds(kSilenceMax).count());
  const int64_t first = sequence;
  const int64_t end = monotonic_ns() + std::chrono::nanoseconds(kRun).count();
  latencies_ = {};
  for (Connection& connection : connections_) send_next(connection, sequence, bills);
  for (size_t waiting = connections_.size(); waiting > 0;) {
    std::array<epoll_event, kEventsMax> events;
    const int count = epoll_wait(epoll_.get(), events.data(), kEventsMax, silence_ms);
    if (count <= 0) throw Failure("no reply came for a long time");
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      auto& connection = *static_cast<Connection*>(events[i].data.ptr);
      read_some(connection);
      if (connection.is_waiting) continue;
      if (monotonic_ns() < end) {
        send_next(connection, sequence, bills);
      } else {
        --waiting;
      }
    }
  }
  return sequence - first;
}

void await_bills(const Proxy& proxy, size_t expected) {
  for (int64_t looks = kDeliveryMax / kBetweenLooks; looks > 0; --looks) {
    if (proxy.count_bills() >= static_cast<int64_t>(expected)) return;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  throw Failure("the bills of a run do not arrive");
}

double measure(Way& way, Load& load, LoadFigures& figures, bool is_counted,
               const std::function<void()>& await_end) {
  const int64_t cpu_before = way.pid != 0 ? cpu_ns(way.pid) : 0;
  const int64_t loop_before = way.pid != 0 ? busiest_thread_ns(way.pid) : 0;
  const int64_t begin = monotonic_ns();
  const auto requests = static_cast<double>(load.run(way.sequence, way.bills));
  const auto elapsed = static_cast<double>(monotonic_ns() - begin);
  await_end();
  if (!is_counted) return 0;
  figures.rate.add(requests / elapsed * 1e9);
  figures.latency_us.add(load.latencies().median());
  if (way.pid == 0) return 0;
  const auto cpu = static_cast<double>(cpu_ns(way.pid) - cpu_before);
  const auto loop = static_cast<double>(busiest_thread_ns(way.pid) - loop_before);
  figures.cpu_us.add(cpu / requests / kNsPerUs);
  figures.loop_us.add(loop / requests / kNsPerUs);
  figures.busy.add(cpu / elapsed * 100);
  return cpu / requests / kNsPerUs;
}

std::string spread(const Samples& samples, int digits) {
  if (samples.empty()) return "";
  return fmt::format("{:.{}f} ({:.{}f}..{:.{}f})", samples.median(), digits, samples.min(), digits,
                     samples.max(), digits);
}

}  // namespace llmproxy::bench
