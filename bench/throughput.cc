// CPU per request under 64 closed-loop connections: through the proxy, through nginx that merely
// forwards (if it is installed), and direct, in turn. What is measured has one core, load and
// backend another. Fails when the bills do not add up, never by time. throughput BINARY [ROUNDS]
#include <fmt/format.h>
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
#include "load.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 9;
constexpr size_t kConnections = 64;
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

void print_lane(const char* title, Lane lane, const std::vector<Way*>& ways) {
  fmt::print("\n{}\n{:<8} {:>24} {:>24} {:>24} {:>12} {:>22}\n", title, "", "requests/s",
             "CPU us/request", "of it the event loop", "core busy %", "CPU over nginx");
  for (const Way* way : ways) {
    const LoadFigures& figures = way->figures[lane];
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
    const double us = measure(*way, *way->loads[lane], way->figures[lane], is_counted, [&] {
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
    direct.loads[lane] = std::make_unique<Load>(backend.port(), "none", lane, kConnections);
    through.loads[lane] = std::make_unique<Load>(proxy.port(), proxy.token(), lane, kConnections);
    if (peer)
      nginx.loads[lane] = std::make_unique<Load>(peer->port(lane), "none", lane, kConnections);
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
