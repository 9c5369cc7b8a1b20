// Requests over epoll, and the clocks of the process that they go through.
#include "load.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <sstream>
#include <string_view>
#include <thread>

#include "backend.h"
#include "process.h"

namespace llmproxy::bench {
namespace {

constexpr std::string_view kStreamEnd = "data: [DONE]\n\n";
constexpr double kNsPerUs = 1000;
constexpr int64_t kForEver = std::numeric_limits<int64_t>::max();
constexpr int64_t kSilenceNs = std::chrono::nanoseconds(kSilenceMax).count();

bool is_shipping(std::string_view thread) {
  return thread.starts_with("ledger-ship") || thread.starts_with("ledger-read");
}

}  // namespace

bool is_short() {
  const char* const wanted = std::getenv("BENCH_SHORT");
  return wanted != nullptr && std::string_view(wanted) == "1";
}

CpuTimes cpu_times(pid_t pid) {
  CpuTimes times;
  for (const pid_t each : process_tree(pid)) {
    for (const auto& task :
         std::filesystem::directory_iterator(fmt::format("/proc/{}/task", each))) {
      int64_t used = 0;
      std::istringstream(read_file(task.path() / "schedstat")) >> used;
      (is_shipping(read_file(task.path() / "comm")) ? times.shipping_ns : times.data_ns) += used;
      times.busiest_ns = std::max(times.busiest_ns, used);
    }
  }
  return times;
}

Load::Load(uint16_t port, std::vector<std::string> tokens, const Ask& ask, size_t connections,
           std::chrono::milliseconds length)
    : tokens_(std::move(tokens)),
      port_(port),
      ask_(ask),
      length_(length),
      epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  while (connections_.size() < connections) open_connection();
}

void Load::open_connection() {
  Connection& connection = connections_.emplace_back();
  connection.fd = connect_to(port_);
  epoll_event event{.events = EPOLLIN, .data = {.ptr = &connection}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection.fd.get(), &event) != 0) {
    fail_errno("epoll_ctl");
  }
}

void Load::send_next(Connection& connection, int64_t& sequence, Bills& bills) {
  connection.reply.reset();
  connection.is_waiting = true;
  ++waiting_;
  const std::string& token = tokens_[static_cast<size_t>(++sequence) % tokens_.size()];
  const std::string request = make_request(token, ask_, sequence);
  connection.sent_ns = monotonic_ns();
  send_all(connection.fd.get(), request);
  bills.emplace_hint(bills.end(), sequence, ask_.completion_tokens());
}

void Load::check(const ReplyReader& reply) const {
  const size_t streamed = ask_.events * kEventBytes + kStreamEnd.size();
  const bool is_right = ask_.is_rewritten ? holds_reply(reply.body(), ask_)
                        : !ask_.is_stream ? reply.body().size() == ask_.body_bytes
                        : ask_.asks_usage ? reply.body().size() > streamed
                                          : reply.body().size() == streamed;
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
  const int64_t now = monotonic_ns();
  if (connection.is_counted) {
    latencies_.add(static_cast<double>(now - connection.sent_ns) / kNsPerUs);
  }
  check(connection.reply);
  connection.is_waiting = false;
  --waiting_;
}

void Load::begin(int64_t& sequence, Bills& bills) {
  latencies_ = {};
  // Paced streams do not run in step.
  const auto apart = ask_.pace / static_cast<int64_t>(connections_.size());
  for (Connection& connection : connections_) {
    send_next(connection, sequence, bills);
    if (apart.count() > 0) std::this_thread::sleep_for(apart);
  }
}

// What has come, or comes within so long; false if nothing did.
template <class OnReply>
bool Load::serve_once(int64_t wait_ns, OnReply on_reply) {
  constexpr size_t kEventsMax = 64;
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  std::array<epoll_event, kEventsMax> events;
  const timespec timeout{wait_ns / kNsPerSecond, wait_ns % kNsPerSecond};
  const int count = epoll_pwait2(epoll_.get(), events.data(), kEventsMax, &timeout, nullptr);
  for (size_t i = 0; i < static_cast<size_t>(std::max(count, 0)); ++i) {
    auto& connection = *static_cast<Connection*>(events[i].data.ptr);
    read_some(connection);
    if (!connection.is_waiting) on_reply(connection);
  }
  return count != 0;
}

template <class OnReply>
void Load::serve(int64_t end_ns, OnReply on_reply) {
  while (waiting_ > 0) {
    const int64_t left = end_ns - monotonic_ns();
    if (left <= 0) return;
    if (!serve_once(std::min(left, kSilenceNs), on_reply) && left > kSilenceNs) {
      throw Failure("no reply came for a long time");
    }
  }
}

int64_t Load::run(int64_t& sequence, Bills& bills) {
  const int64_t first = sequence;
  const int64_t end = monotonic_ns() + std::chrono::nanoseconds(length_).count();
  begin(sequence, bills);
  serve(kForEver, [&](Connection& connection) {
    if (monotonic_ns() < end) send_next(connection, sequence, bills);
  });
  return sequence - first;
}

int64_t Load::run_open(const Schedule& schedule, int64_t& sequence, Bills& bills) {
  prctl(PR_SET_TIMERSLACK, 1);  // or the kernel wakes this thread 50 us late
  latencies_ = {};
  lags_ = {};
  const std::vector<int64_t>& due = schedule.due_ns;
  std::vector<Connection*> free;  // the one used last at the end: as few as will do
  for (Connection& connection : connections_) free.push_back(&connection);
  const int64_t begin = monotonic_ns();
  int64_t could_send_ns = begin;  // since when there was a connection, once there was none
  size_t next = 0;
  while (next < due.size() || waiting_ > 0) {
    int64_t now = monotonic_ns();
    for (; next < due.size() && begin + due[next] <= now; ++next, now = monotonic_ns()) {
      if (free.empty() && connections_.size() < schedule.connections_max) {
        open_connection();
        free.push_back(&connections_.back());
      }
      if (free.empty()) break;
      Connection& connection = *free.back();
      free.pop_back();
      send_next(connection, sequence, bills);
      const int64_t due_ns = begin + due[next];
      connection.is_counted = due[next] >= schedule.counted_from_ns;
      const int64_t late = connection.sent_ns - std::max(due_ns, could_send_ns);
      if (connection.is_counted) lags_.add(static_cast<double>(late) / kNsPerUs);
      connection.sent_ns = due_ns;
    }
    const bool is_due = next < due.size() && begin + due[next] <= now;
    const bool waits_for_reply = is_due || next == due.size();
    const int64_t wait = waits_for_reply ? kSilenceNs : begin + due[next] - now;
    const bool has_come = serve_once(wait, [&](Connection& connection) {
      const bool was_needed = free.empty() && connections_.size() == schedule.connections_max;
      if (was_needed) could_send_ns = monotonic_ns();
      free.push_back(&connection);
    });
    if (!has_come && waits_for_reply) throw Failure("no reply came for a long time");
  }
  return monotonic_ns() - begin;
}

void Load::serve_until(int64_t end_ns) {
  serve(end_ns, [](Connection&) {});
}

void Load::finish() {
  serve_until(kForEver);
}

void await_bills(const Proxy& proxy, size_t expected) {
  for (int64_t looks = kDeliveryMax / kBetweenLooks; looks > 0; --looks) {
    if (proxy.count_bills() >= static_cast<int64_t>(expected)) return;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  throw Failure("the bills of a run do not arrive");
}

void measure(Way& way, Load& load, LoadFigures& figures, bool is_counted,
             const std::function<void()>& await_end) {
  const CpuTimes before = way.pid != 0 ? cpu_times(way.pid) : CpuTimes{};
  const int64_t begin = monotonic_ns();
  const auto requests = static_cast<double>(load.run(way.sequence, way.bills));
  const auto elapsed = static_cast<double>(monotonic_ns() - begin);
  await_end();
  if (!is_counted) return;
  figures.rate.add(requests / elapsed * 1e9);
  figures.latency_us.add(load.latencies().median());
  if (way.pid == 0) return;
  const CpuTimes after = cpu_times(way.pid);
  const auto us_each = [&](int64_t CpuTimes::*part) {
    return static_cast<double>(after.*part - before.*part) / requests / kNsPerUs;
  };
  figures.data_us.add(us_each(&CpuTimes::data_ns));
  figures.shipping_us.add(us_each(&CpuTimes::shipping_ns));
  figures.loop_us.add(us_each(&CpuTimes::busiest_ns));
  const auto cpu = static_cast<double>(after.all_ns() - before.all_ns());
  figures.cpu_us.add(cpu / requests / kNsPerUs);
  figures.busy.add(cpu / elapsed * 100);
}

}  // namespace llmproxy::bench
