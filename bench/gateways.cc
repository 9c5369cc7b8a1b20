// Other LLM gateways beside the proxy, nginx and HAProxy: the same work in the same rounds, keys
// and a log of what was spent on. What is measured has one core, load and backend another. A
// gateway that is not installed, or fails, is told in the table; only our own bills must add up.
// gateways BINARY [ROUNDS [GATEWAY...]].
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "backend.h"
#include "gateway.h"
#include "lanes.h"
#include "load.h"
#include "peers.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 5;
constexpr std::chrono::milliseconds kGatewayRun{1500};  // the slowest need tens of ms for a stream

// Few enough that the slowest answers each connection more than once in a run on a quiet machine,
// and that paced streams ask less than a core of it.
std::vector<Lane> all_lanes() {
  constexpr size_t kPlain = 64, kBursts = 16, kPaced = 16, kBody = 1'024;
  std::vector<Lane> lanes;
  lanes.push_back({.title = fmt::format("JSON, replies of {} B, {} connections", kBody, kPlain),
                   .ask = {.body_bytes = kBody},
                   .connections = kPlain,
                   .run = kGatewayRun});
  lanes.push_back(
      {.title = fmt::format("SSE, a burst of 64 chunks, usage asked for by the client, {} "
                            "connections",
                            kBursts),
       .ask = {.is_stream = true, .asks_usage = true},
       .connections = kBursts,
       .run = kGatewayRun});
  lanes.push_back(
      {.title = fmt::format("SSE, a chunk every 20 ms, usage asked for by the client, {} streams",
                            kPaced),
       .ask = {.is_stream = true,
               .events = 40,
               .pace = std::chrono::milliseconds(20),
               .asks_usage = true},
       .connections = kPaced,
       .run = kGatewayRun});
  return lanes;
}

std::string first_line(const std::string& text) {
  constexpr size_t kLineMax = 160;
  return text.substr(0, std::min(text.find('\n'), kLineMax));
}

void print_lane(const Lane& lane, const Runners& runners) {
  constexpr double kUsPerMs = 1000;
  const LoadFigures& nginx = nginx_of(runners);
  fmt::print("\n### {}\n\n", lane.title);
  Table table({"", "requests/s", lane.is_paced() ? "CPU us/chunk" : "CPU us/request", "over nginx",
               "median latency, ms", "core busy %"});
  for (const auto& runner : runners) {
    const LoadFigures& own = runner->figures;
    if (!runner->failure.empty()) {
      table.add({runner->way.name, "failed: " + first_line(runner->failure)});
      continue;
    }
    Samples latency;
    for (const double us : own.latency_us.all()) latency.add(us / kUsPerMs);
    if (own.cpu_us.empty()) {
      table.add({runner->way.name, spread(own.rate, 0), "", "", spread(latency, 2)});
      continue;
    }
    table.add({runner->way.name, spread(own.rate, 0), spread(lane.each(own.cpu_us), 1),
               spread(combine(own.cpu_us, nginx.cpu_us, std::divides<>()), 2), spread(latency, 2),
               fmt::format("{:.0f}", own.busy.median())});
  }
  std::fflush(stdout);
}

// Started, or the reason why not.
struct Started {
  const Gateway::Kind* kind;
  std::string missing{};
  std::unique_ptr<Gateway> gateway{};
};

std::vector<Started> start_gateways(const std::vector<std::string>& wanted, uint16_t backend_port) {
  std::vector<Started> all;
  for (const Gateway::Kind& kind : Gateway::kinds()) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), kind.name) == wanted.end()) {
      continue;
    }
    Started& started = all.emplace_back(Started{.kind = &kind});
    const std::string why = Gateway::why_missing(kind);
    if (!why.empty()) {
      started.missing = "did not install: " + why;
      continue;
    }
    try {
      started.gateway = std::make_unique<Gateway>(kind, backend_port, kMeasuredCore);
    } catch (const Failure& failure) {
      fmt::print(stderr, "{}\n", failure.what());
      started.missing = first_line(failure.what());
    }
  }
  return all;
}

void print_gateways(const std::vector<Started>& all) {
  fmt::print("\n");
  Table table({"gateway", "version", "keys", "spend"});
  for (const Started& each : all) {
    if (each.gateway == nullptr) {
      table.add({each.kind->name, each.missing});
    } else {
      table.add({each.kind->name, each.gateway->version(), each.kind->keys, each.kind->spend});
    }
  }
}

std::string of(size_t part, size_t whole) {
  return fmt::format("{} of {}", part, whole);
}

// Behind the load, so that reading what they logged is in nobody's way.
void print_spend(const std::vector<Started>& all, const Runners& runners, size_t own_bills) {
  fmt::print("\n### Spend logged\n\n");
  Table table({"", "spend logged", "with the right counts"});
  table.add({"proxy", of(own_bills, own_bills), of(own_bills, own_bills)});
  for (const Started& each : all) {
    if (each.gateway == nullptr) continue;
    const auto is_own = [&](const auto& runner) { return runner->way.name == each.kind->name; };
    const Bills& asked = (*std::find_if(runners.begin(), runners.end(), is_own))->way.bills;
    const Gateway::Spend spend = each.gateway->compare(asked);
    table.add({each.kind->name, of(spend.rows, asked.size()),
               each.kind->has_counts ? of(spend.right, asked.size()) : "it knows no tokens"});
  }
}

void add_gateways(const std::vector<Started>& all, Runners& runners) {
  for (const Started& each : all) {
    if (each.gateway == nullptr) continue;
    Gateway* const gateway = each.gateway.get();
    auto runner =
        std::make_unique<Runner>(Runner{.way = {.name = each.kind->name, .pid = gateway->pid()},
                                        .port = [gateway](bool) { return gateway->port(); },
                                        .tokens = {gateway->token()},
                                        .model = each.kind->model,
                                        .is_rewriting = each.kind->is_rewriting,
                                        .may_fail = true,
                                        .closes_idle = true,
                                        .connections_max = each.kind->connections_max});
    const Bills& bills = runner->way.bills;
    runner->await_end = [gateway, &bills] { gateway->await_spend(bills.size()); };
    runners.push_back(std::move(runner));
  }
}

void run(const std::string& binary, size_t rounds, const std::vector<std::string>& wanted) {
  if (std::thread::hardware_concurrency() < 2) throw Failure("needs two cores");
  raise_open_files_limit();
  pin_to_core(kLoadCore);
  fmt::print("## Other gateways\n\n{}; commit {}.\n", describe_machine(), describe_commit());
  fmt::print(
      "{} rounds, runs of {} ms, median (min..max); measured on core {}, load and backend on core "
      "{}.\nThe proxy's ledger is durable, its events go into SQLite. nginx and HAProxy forward "
      "and do nothing else.\n",
      rounds, kGatewayRun.count(), kMeasuredCore, kLoadCore);
  const Backend backend;
  Proxy proxy(
      {.binary = binary, .backend_ports = backend.ports(), .threads = 1, .core = kMeasuredCore});
  const auto nginx = Peer::start_nginx(backend.port());
  const auto haproxy = Peer::start_haproxy(backend.port());
  const std::vector<Started> gateways = start_gateways(wanted, backend.port());
  print_gateways(gateways);
  std::fflush(stdout);
  Runners runners;
  const auto add = [&](Way way, auto port) {
    runners.push_back(std::make_unique<Runner>(Runner{.way = std::move(way), .port = port}));
  };
  add({.name = "proxy", .pid = proxy.pid()}, [&](bool) { return proxy.port(); });
  runners.back()->tokens = proxy.tokens();
  runners.back()->proxy = &proxy;
  for (const Peer* peer : {nginx.get(), haproxy.get()}) {
    add({.name = peer->name(), .pid = peer->pid()},
        [peer](bool is_stream) { return peer->port(is_stream); });
  }
  add_gateways(gateways, runners);
  for (const Lane& lane : all_lanes()) {
    run_lane(lane, runners, rounds);
    print_lane(lane, runners);
  }
  const Bills& bills = runners.front()->way.bills;
  proxy.stop_and_check(bills);
  print_spend(gateways, runners, bills.size());
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  const size_t rounds = argc > 2 ? number_of(argv[2]) : kRoundsDefault;
  if (argc < 2 || rounds == 0 || *argv[1] == 0) {
    fmt::print(stderr, "usage: gateways BINARY [ROUNDS [GATEWAY...]]\n");
    return 64;
  }
  const std::vector<std::string> wanted(argv + std::min(argc, 3), argv + argc);
  return run_program("gateways", [&] { run(argv[1], rounds, wanted); });
}
