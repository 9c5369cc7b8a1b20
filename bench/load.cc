// Requests in a closed loop over epoll, and the clocks of the process that they go through.
#include "load.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
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

bool is_shipping(std::string_view thread) {
  return thread.starts_with("ledger-ship") || thread.starts_with("ledger-read");
}

}  // namespace

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
      ask_(ask),
      length_(length),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      connections_(connections) {
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
  latencies_.add(static_cast<double>(monotonic_ns() - connection.sent_ns) / kNsPerUs);
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

template <class OnReply>
void Load::serve(int64_t end_ns, OnReply on_reply) {
  constexpr size_t kEventsMax = 64;
  constexpr int64_t kSilenceNs = std::chrono::nanoseconds(kSilenceMax).count();
  while (waiting_ > 0) {
    const int64_t left = end_ns - monotonic_ns();
    if (left <= 0) return;
    std::array<epoll_event, kEventsMax> events;
    const auto wait_ms = static_cast<int>(std::min(left, kSilenceNs) / 1'000'000 + 1);
    const int count = epoll_wait(epoll_.get(), events.data(), kEventsMax, wait_ms);
    if (count == 0 && left > kSilenceNs) throw Failure("no reply came for a long time");
    for (size_t i = 0; i < static_cast<size_t>(std::max(count, 0)); ++i) {
      auto& connection = *static_cast<Connection*>(events[i].data.ptr);
      read_some(connection);
      if (!connection.is_waiting) on_reply(connection);
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
