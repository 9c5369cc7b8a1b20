// CPU per request under 64 closed-loop connections: through the proxy, through nginx that merely
// forwards (if it is installed), and direct, in turn. What is measured has one core, load and
// backend another. Fails when the bills do not add up, never by time. throughput BINARY [ROUNDS]
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <thread>

#include "backend.h"
#include "figures.h"
#include "proxy.h"
#include "wire.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 9;
constexpr size_t kConnections = 64;
constexpr size_t kEventsPerStream = 64;
constexpr std::chrono::milliseconds kRun{800};
constexpr std::chrono::seconds kDeliveryMax{60};  // of the last bill of a run
constexpr std::chrono::milliseconds kBetweenLooks{20};
constexpr int kMeasuredCore = 0, kLoadCore = 1;
constexpr std::string_view kStreamEnd = "data: [DONE]\n\n";

enum Lane { kJson, kBurst, kLanes };

// Connections that each send the next request as soon as they have the reply.
class Load {
 public:
  Load(uint16_t port, const std::string& token, Lane lane);

  // Requests answered, those that were under way at the end of the time included. Notes them in
  // `bills`.
  int64_t run(int64_t& sequence, Bills& bills);

 private:
  struct Connection {
    Fd fd;
    ReplyReader reply;
    bool is_waiting = false;
  };

  void send_next(Connection& connection, int64_t& sequence, Bills& bills);
  void check(const ReplyReader& reply) const;

  const std::string token_;
  const Lane lane_;
  Fd epoll_;
  std::array<Connection, kConnections> connections_;
};

Load::Load(uint16_t port, const std::string& token, Lane lane)
    : token_(token), lane_(lane), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
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
  send_all(connection.fd.get(), make_request(token_, lane_ == kBurst, ++sequence));
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

int64_t Load::run(int64_t& sequence, Bills& bills) {
  const int64_t first = sequence;
  const int64_t end = monotonic_ns() + std::chrono::nanoseconds(kRun).count();
  for (Connection& connection : connections_) send_next(connection, sequence, bills);
  for (size_t waiting = kConnections; waiting > 0;) {
    std::array<epoll_event, kConnections> events;
    const int silence_ms = static_cast<int>(std::chrono::milliseconds(kSilenceMax).count());
    const int count = epoll_wait(epoll_.get(), events.data(), kConnections, silence_ms);
    if (count <= 0) throw Failure("no reply came for a long time");
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      auto& connection = *static_cast<Connection*>(events[i].data.ptr);
      std::array<char, 65536> bytes;
      const ssize_t size = recv(connection.fd.get(), bytes.data(), bytes.size(), 0);
      if (size <= 0 || !connection.is_waiting) throw Failure("a connection was closed");
      connection.reply.feed({bytes.data(), static_cast<size_t>(size)});
      if (!connection.reply.is_done()) continue;
      check(connection.reply);
      connection.is_waiting = false;
      if (monotonic_ns() < end) {
        send_next(connection, sequence, bills);
      } else {
        --waiting;
      }
    }
  }
  return sequence - first;
}

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

// nginx that forwards and does nothing else: one worker, kept connections to the backend, no access
// log.
class Nginx {
 public:
  explicit Nginx(uint16_t backend_port) {
    { const Fd first = listen_on_any_port(port_), second = listen_on_any_port(stream_port_); }
    const std::string path = directory_.path() + "/nginx.conf";
    const std::string forward =
        "location / { proxy_pass http://bench; proxy_http_version 1.1;"
        " proxy_set_header Connection \"\"; }";
    write_file(path, fmt::format(R"(daemon off; worker_processes 1; pid {0}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; server_tokens off;
  client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;
  uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
  upstream bench {{ server 127.0.0.1:{1}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{2}; {4} }}
  server {{ listen 127.0.0.1:{3}; proxy_buffering off; {4} }}
}}
)",
                                 directory_.path(), backend_port, port_, stream_port_, forward));
    process_ = std::make_unique<Process>(
        std::vector<std::string>{"nginx", "-e", directory_.path() + "/errors", "-c", path},
        Process::Files{}, kMeasuredCore);
    await_worker();
  }

  static bool is_installed() { return Process({"nginx", "-v"}, {}).wait() == 0; }
  uint16_t port(Lane lane) const { return lane == kBurst ? stream_port_ : port_; }
  pid_t worker() const { return worker_; }

 private:
  void await_worker() {
    const std::string children = fmt::format("/proc/{0}/task/{0}/children", process_->pid());
    for (int64_t looks = kDeliveryMax / kBetweenLooks; worker_ == 0; --looks) {
      if (process_->has_ended() || looks == 0) {
        throw Failure("nginx did not start:\n" + read_file(directory_.path() + "/errors"));
      }
      std::istringstream(read_file(children)) >> worker_;
      std::this_thread::sleep_for(kBetweenLooks);
    }
  }

  TemporaryDirectory directory_;
  uint16_t port_ = 0, stream_port_ = 0;
  std::unique_ptr<Process> process_;
  pid_t worker_ = 0;
};

struct Figures {
  Samples rate, cpu_us, loop_us, busy, ratio;
};

// One way to the backend: what is on it, and the load for each lane.
struct Way {
  std::string name{};
  pid_t pid = 0;  // 0: nothing to measure
  std::array<std::unique_ptr<Load>, kLanes> loads{};
  std::array<Figures, kLanes> figures{};
  int64_t sequence = 0;
  Bills bills{};
};

// A run ends when its last bill is in the database, so nothing is put off past the clock.
void await_bills(const Proxy& proxy, size_t expected) {
  for (int64_t looks = kDeliveryMax / kBetweenLooks; looks > 0; --looks) {
    if (proxy.count_bills() >= static_cast<int64_t>(expected)) return;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  throw Failure("the bills of a run do not arrive");
}

// CPU of one request in microseconds; 0 for the direct way.
double measure(Way& way, Lane lane, bool is_counted, const std::function<void()>& await_end) {
  const int64_t cpu_before = way.pid != 0 ? cpu_ns(way.pid) : 0;
  const int64_t loop_before = way.pid != 0 ? busiest_thread_ns(way.pid) : 0;
  const int64_t begin = monotonic_ns();
  const auto requests = static_cast<double>(way.loads[lane]->run(way.sequence, way.bills));
  const auto elapsed = static_cast<double>(monotonic_ns() - begin);
  await_end();
  if (!is_counted) return 0;
  Figures& figures = way.figures[lane];
  figures.rate.add(requests / elapsed * 1e9);
  if (way.pid == 0) return 0;
  const auto cpu = static_cast<double>(cpu_ns(way.pid) - cpu_before);
  const auto loop = static_cast<double>(busiest_thread_ns(way.pid) - loop_before);
  figures.cpu_us.add(cpu / requests / 1000);
  figures.loop_us.add(loop / requests / 1000);
  figures.busy.add(cpu / elapsed * 100);
  return cpu / requests / 1000;
}

std::string spread(const Samples& samples, int digits) {
  if (samples.empty()) return "";
  return fmt::format("{:.{}f} ({:.{}f}..{:.{}f})", samples.median(), digits, samples.min(), digits,
                     samples.max(), digits);
}

void print_lane(const char* title, Lane lane, const std::vector<Way*>& ways) {
  fmt::print("\n{}\n{:<8} {:>24} {:>24} {:>24} {:>12} {:>22}\n", title, "", "requests/s",
             "CPU us/request", "of it the event loop", "core busy %", "CPU over nginx");
  for (const Way* way : ways) {
    const Figures& figures = way->figures[lane];
    fmt::print("{:<8} {:>24} {:>24} {:>24} {:>12} {:>22}\n", way->name, spread(figures.rate, 0),
               spread(figures.cpu_us, 1), spread(figures.loop_us, 1),
               figures.busy.empty() ? "" : fmt::format("{:.0f}", figures.busy.median()),
               spread(figures.ratio, 2));
  }
}

void run_lane(Lane lane, bool is_counted, const std::vector<Way*>& ways, Way& through, Way* nginx,
              const Proxy& proxy) {
  std::optional<double> proxy_us, nginx_us;
  for (Way* way : ways) {
    const double us = measure(*way, lane, is_counted, [&] {
      if (way == &through) await_bills(proxy, through.bills.size());
    });
    if (way == &through) proxy_us = us;
    if (way == nginx) nginx_us = us;
  }
  if (!is_counted) return;
  if (nginx_us) through.figures[lane].ratio.add(*proxy_us / *nginx_us);
}

void run(const std::string& binary, size_t rounds) {
  fmt::print("throughput: {}\ncommit {}\n", describe_machine(), describe_commit());
  if (std::thread::hardware_concurrency() < 2) throw Failure("needs two cores");
  pin_to_core(kLoadCore);
  Backend backend({.events = kEventsPerStream});
  Proxy proxy(
      {.binary = binary, .backend_port = backend.port(), .threads = 1, .core = kMeasuredCore});
  std::optional<Nginx> peer;
  if (Nginx::is_installed()) peer.emplace(backend.port());
  fmt::print(
      "{} rounds, {} connections, runs of {} ms; measured on core {}, load and backend on "
      "core {}{}\n",
      rounds, kConnections, kRun.count(), kMeasuredCore, kLoadCore,
      peer ? "" : "; nginx is not installed");
  std::fflush(stdout);
  Way direct{.name = "direct"}, through{.name = "proxy", .pid = proxy.pid()};
  Way nginx{.name = "nginx", .pid = peer ? peer->worker() : 0};
  std::vector<Way*> ways{&through, &direct};
  if (peer) ways.insert(ways.begin() + 1, &nginx);
  for (const Lane lane : {kJson, kBurst}) {
    direct.loads[lane] = std::make_unique<Load>(backend.port(), "none", lane);
    through.loads[lane] = std::make_unique<Load>(proxy.port(), proxy.token(), lane);
    if (peer) nginx.loads[lane] = std::make_unique<Load>(peer->port(lane), "none", lane);
  }
  for (size_t round = 0; round <= rounds; ++round) {  // the first is to warm up
    for (const Lane lane : {kJson, kBurst}) {
      run_lane(lane, round > 0, ways, through, peer ? &nginx : nullptr, proxy);
    }
    std::rotate(ways.begin(), ways.begin() + 1, ways.end());
  }
  proxy.stop_and_check(through.bills);
  const std::vector<Way*> rows =
      peer ? std::vector<Way*>{&direct, &through, &nginx} : std::vector<Way*>{&direct, &through};
  print_lane("JSON, replies of 700 B: median (min..max) of the rounds", kJson, rows);
  print_lane("SSE, one burst of 64 events of 215 B, usage asked for by the proxy", kBurst, rows);
  fmt::print("\n{} requests through the proxy, {} bills, each count right\n", through.bills.size(),
             through.bills.size());
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  size_t rounds = kRoundsDefault;
  if (argc == 3) {
    const std::string_view text = argv[2];
    std::from_chars(text.data(), text.data() + text.size(), rounds);
  }
  if (argc < 2 || argc > 3 || rounds == 0) {
    fmt::print(stderr, "usage: throughput BINARY [ROUNDS]\n");
    return 64;
  }
  try {
    run(argv[1], rounds);
  } catch (const std::exception& failure) {
    fmt::print(stderr, "throughput: {}\n", failure.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
