// CPU per request under closed-loop load: through the proxy, through nginx and HAProxy that merely
// forward, and direct, in turn. What is measured has one core, load and backend another. Fails when
// the bills do not add up, never by time. throughput BINARY[,BINARY...] [ROUNDS [LANES]], of which
// LANES is a part of their titles. Several binaries: a change beside what it changed.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <sstream>
#include <string_view>
#include <thread>
#include <vector>

#include "backend.h"
#include "lanes.h"
#include "load.h"
#include "peers.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 9;

std::vector<Lane> all_lanes() {
  std::vector<Lane> lanes;
  for (const size_t body : {1'024u, 10'240u}) {
    for (const size_t connections : {1u, 64u, 256u, 1'000u}) {
      lanes.push_back({fmt::format("JSON, replies of {} B, {} connections", body, connections),
                       {.body_bytes = body},
                       connections});
    }
  }
  constexpr size_t kBursts = 64, kPaced = 200;
  for (const size_t events : {64u, 512u}) {
    for (const bool asks : {false, true}) {
      lanes.push_back(
          {fmt::format("SSE, a burst of {} chunks, usage asked for by {}, {} connections", events,
                       asks ? "the client" : "the proxy", kBursts),
           {.is_stream = true, .events = events, .asks_usage = asks},
           kBursts});
    }
  }
  for (const bool asks : {false, true}) {
    lanes.push_back({fmt::format("SSE, a chunk every 20 ms, usage asked for by {}, {} streams",
                                 asks ? "the client" : "the proxy", kPaced),
                     {.is_stream = true,
                      .events = 40,
                      .pace = std::chrono::milliseconds(20),
                      .asks_usage = asks},
                     kPaced});
  }
  return lanes;
}

// To a backend with TLS; direct ones go to one without.
std::vector<Lane> tls_lanes() {
  constexpr size_t kEach = 64;
  std::vector<Lane> lanes;
  for (const bool closes : {false, true}) {
    lanes.push_back(
        {fmt::format("TLS, JSON, replies of 1024 B, {} connections, those to the backend {}", kEach,
                     closes ? "resumed for each" : "kept"),
         {.body_bytes = 1'024, .closes = closes},
         kEach});
  }
  return lanes;
}

void print_lane(const Lane& lane, const Runners& runners) {
  const int digits = lane.is_paced() ? 2 : 1;
  const auto each = [&](const Samples& us) { return spread(lane.each(us), digits); };
  const LoadFigures& nginx = nginx_of(runners);
  fmt::print("\n### {}\n\n", lane.title);
  Table table({"", "requests/s", lane.is_paced() ? "CPU us/chunk" : "CPU us/request", "over nginx",
               "of it data path", "over nginx", "shipping", "event loop", "core busy %"});
  for (const auto& runner : runners) {
    const LoadFigures& own = runner->figures;
    const auto over = [&](const Samples& us) {
      return spread(combine(us, nginx.cpu_us, std::divides<>()), 2);
    };
    if (own.cpu_us.empty()) {
      table.add({runner->way.name, spread(own.rate, 0)});
      continue;
    }
    table.add({runner->way.name, spread(own.rate, 0), each(own.cpu_us), over(own.cpu_us),
               each(own.data_us), over(own.data_us), each(own.shipping_us), each(own.loop_us),
               fmt::format("{:.0f}", own.busy.median())});
  }
}

// On processes of their own.
size_t run_lanes(const std::vector<Lane>& lanes, bool is_tls,
                 const std::vector<std::string>& binaries, size_t rounds) {
  if (lanes.empty()) return 0;
  const Backend backend, tls_backend(1, true);
  const Backend& target = is_tls ? tls_backend : backend;
  std::vector<std::unique_ptr<Proxy>> proxies;
  for (const std::string& binary : binaries) {
    proxies.push_back(std::make_unique<Proxy>(Proxy::Options{.binary = binary,
                                                             .backend_ports = target.ports(),
                                                             .threads = 1,
                                                             .is_tls = is_tls,
                                                             .core = kMeasuredCore}));
  }
  const auto nginx = Peer::start_nginx(target.port(), is_tls);
  const auto haproxy = Peer::start_haproxy(target.port(), is_tls);
  const auto copy = is_tls ? nullptr : Peer::start_copy(target.port());
  Runners runners;
  const auto add = [&](Way way, auto port) {
    runners.push_back(std::make_unique<Runner>(Runner{.way = std::move(way), .port = port}));
  };
  add({.name = "direct"}, [&](bool) { return backend.port(); });
  for (const auto& proxy : proxies) {
    const std::string name = proxies.size() == 1 ? "proxy" : "proxy " + proxy->binary();
    add({.name = name, .pid = proxy->pid()}, [&](bool) { return proxy->port(); });
    runners.back()->tokens = proxy->tokens();
    runners.back()->proxy = proxy.get();
  }
  for (const Peer* peer : {nginx.get(), haproxy.get(), copy.get()}) {
    if (peer == nullptr) continue;
    add({.name = peer->name(), .pid = peer->pid()},
        [peer](bool is_stream) { return peer->port(is_stream); });
  }
  for (const Lane& lane : lanes) {
    run_lane(lane, runners, rounds);
    print_lane(lane, runners);
  }
  size_t requests = 0;
  for (size_t i = 0; i < proxies.size(); ++i) {
    const Bills& bills = runners[1 + i]->way.bills;  // behind the direct way
    proxies[i]->stop_and_check(bills);
    requests += bills.size();
  }
  return requests;
}

std::vector<Lane> pick(const std::vector<Lane>& lanes, std::string_view wanted) {
  std::vector<Lane> picked;
  for (const Lane& lane : lanes) {
    if (lane.title.find(wanted) != std::string::npos) picked.push_back(lane);
  }
  return picked;
}

void run(const std::vector<std::string>& binaries, size_t rounds, std::string_view wanted) {
  if (std::thread::hardware_concurrency() < 2) throw Failure("needs two cores");
  raise_open_files_limit();
  pin_to_core(kLoadCore);
  fmt::print("## CPU per request\n\n{}; commit {}.\n", describe_machine(), describe_commit());
  fmt::print(
      "{} rounds, runs of {} ms, median (min..max); measured on core {}, load and backend on core "
      "{}.\nThe proxy's ledger is durable, its key cache warm, its log a file; events go into "
      "SQLite.\n",
      rounds, kRun.count(), kMeasuredCore, kLoadCore);
  std::fflush(stdout);
  const size_t requests = run_lanes(pick(all_lanes(), wanted), false, binaries, rounds) +
                          run_lanes(pick(tls_lanes(), wanted), true, binaries, rounds);
  print_bills(requests);
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  const size_t rounds = argc > 2 ? number_of(argv[2]) : kRoundsDefault;
  if (argc < 2 || argc > 4 || rounds == 0 || *argv[1] == 0) {
    fmt::print(stderr, "usage: throughput BINARY[,BINARY...] [ROUNDS [LANES]]\n");
    return 64;
  }
  std::vector<std::string> binaries;
  std::istringstream names(argv[1]);
  for (std::string name; std::getline(names, name, ',');) binaries.push_back(name);
  return run_program("throughput", [&] { run(binaries, rounds, argc > 3 ? argv[3] : ""); });
}
