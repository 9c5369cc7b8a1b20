// Latency under a load that does not wait for replies, as many clients that know nothing of each
// other make it: requests are due at times of their own, and latency counts from then, so that a
// pause costs all who would have come in it. Direct, through the proxy, and through nginx and
// HAProxy, in turn: at 3,000 requests a second, then at rising rates as long as a way keeps up.
// Fails when the bills do not add up, never by time. open_loop BINARY [ROUNDS [SECONDS [RATE...]]]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "backend.h"
#include "load.h"
#include "peers.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 9, kSecondsDefault = 3;
constexpr size_t kFrontierShare = 3;  // a frontier's rate has so many times fewer rounds
constexpr size_t kRate = 3'000;
constexpr std::chrono::milliseconds kUncounted{200};
constexpr size_t kReplyBytes = 1'024;
constexpr size_t kConnectionsMax = 256;
// Who answers less of what is due, or slower, does not keep up.
constexpr double kAchievedMin = 0.98;
constexpr std::chrono::milliseconds kP99Max{20};
constexpr size_t kMissesMax = 2;  // rates in a row; one may be a neighbour's doing

// A Poisson process, as independent clients are: bunches are part of it, and times at even
// distances would hide what they cost. The seed is the round's, so that all ways have the same
// times.
Schedule make_schedule(size_t rate, size_t seconds, size_t seed) {
  Schedule schedule{.counted_from_ns = std::chrono::nanoseconds(kUncounted).count(),
                    .connections_max = kConnectionsMax};
  const int64_t end =
      schedule.counted_from_ns + std::chrono::nanoseconds(std::chrono::seconds(seconds)).count();
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(static_cast<double>(rate) / 1e9);
  for (double at = gap(random); at < static_cast<double>(end); at += gap(random)) {
    schedule.due_ns.push_back(static_cast<int64_t>(at));
  }
  return schedule;
}

// Of the rounds.
struct OpenFigures {
  Samples p50_us, p99_us, p999_us, max_us;
  Samples rate, achieved;  // requests a second; as a share of what was due
  Samples lag_us;          // p99 of how late they were sent
  Samples busy;            // percent of the core

  bool keeps_up() const {
    return achieved.median() >= kAchievedMin &&
           p99_us.median() <= static_cast<double>(std::chrono::microseconds(kP99Max).count());
  }
};

struct Runner {
  Way way;
  uint16_t port;
  std::vector<std::string> tokens{"none"};
  const Proxy* proxy = nullptr;  // null: a peer
  OpenFigures figures{};
  size_t misses = 0;  // rates in a row at which it did not keep up

  bool is_in() const { return misses < kMissesMax; }
};

// On connections of its own: idle ones are closed after a while.
void run_once(Runner& runner, const Schedule& schedule) {
  Load load(runner.port, runner.tokens, {.body_bytes = kReplyBytes}, 0);
  const pid_t pid = runner.way.pid;
  const int64_t cpu_before = pid != 0 ? cpu_times(pid).all_ns() : 0;
  const auto elapsed =
      static_cast<double>(load.run_open(schedule, runner.way.sequence, runner.way.bills));
  if (runner.proxy != nullptr) await_bills(*runner.proxy, runner.way.bills.size());
  OpenFigures& figures = runner.figures;
  if (pid != 0) {
    const auto cpu = static_cast<double>(cpu_times(pid).all_ns() - cpu_before);
    figures.busy.add(cpu / elapsed * 100);
  }
  const Samples& latencies = load.latencies();
  figures.p50_us.add(latencies.median());
  figures.p99_us.add(latencies.percentile(99));
  figures.p999_us.add(latencies.percentile(99.9));
  figures.max_us.add(latencies.max());
  figures.rate.add(static_cast<double>(schedule.due_ns.size()) / elapsed * 1e9);
  figures.achieved.add(static_cast<double>(schedule.due_ns.back()) / elapsed);
  figures.lag_us.add(load.lags().percentile(99));
}

using Runners = std::vector<std::unique_ptr<Runner>>;

// Those that keep up, in turn.
void run_rate(const Runners& runners, size_t rate, size_t rounds, size_t seconds) {
  std::vector<Runner*> order;
  for (const auto& runner : runners) {
    runner->figures = {};
    if (runner->is_in()) order.push_back(runner.get());
  }
  for (size_t round = 0; round < rounds; ++round) {
    const Schedule schedule = make_schedule(rate, seconds, round + 1);
    for (Runner* runner : order) run_once(*runner, schedule);
    std::rotate(order.begin(), order.begin() + 1, order.end());
  }
}

void print_rate(const Runners& runners, size_t rate) {
  const auto is_nginx = [](const auto& runner) { return runner->way.name == "nginx"; };
  const OpenFigures& nginx = (*std::find_if(runners.begin(), runners.end(), is_nginx))->figures;
  fmt::print("\n### {} requests a second, us from when a request was due\n\n", rate);
  Table table({"", "p50", "over nginx", "p99", "over nginx", "p99.9", "max", "requests/s",
               "core busy %", "sent late, p99"});
  for (const auto& runner : runners) {
    const OpenFigures& own = runner->figures;
    const auto over = [](const Samples& one, const Samples& other) {
      return spread(combine(one, other, std::divides<>()), 2);
    };
    table.add({runner->way.name, spread(own.p50_us, 0), over(own.p50_us, nginx.p50_us),
               spread(own.p99_us, 0), over(own.p99_us, nginx.p99_us), spread(own.p999_us, 0),
               spread(own.max_us, 0), spread(own.rate, 0),
               own.busy.empty() ? "" : fmt::format("{:.0f}", own.busy.median()),
               spread(own.lag_us, 0)});
  }
}

// Rising rates. Where the direct way does not keep up, load and backend are the limit.
void run_frontier(const Runners& runners, const std::vector<size_t>& rates, size_t rounds,
                  size_t seconds) {
  fmt::print(
      "\n### p99 at rising rates, us, as long as a way keeps up\n\n{} rounds. It keeps up when it "
      "answers {:.0f} % of what is due in its time, with a p99 of at most {} ms; it is out after "
      "{} "
      "rates in a row.\n\n",
      rounds, kAchievedMin * 100, kP99Max.count(), kMissesMax);
  std::vector<std::string> heading{"requests/s"};
  for (const auto& runner : runners) heading.push_back(runner->way.name);
  heading.emplace_back("sent late, p99 (direct)");
  Table table(heading);
  for (const size_t rate : rates) {
    run_rate(runners, rate, rounds, seconds);
    std::vector<std::string> row{fmt::format("{}", rate)};
    for (const auto& runner : runners) {
      const OpenFigures& own = runner->figures;
      row.push_back(spread(own.p99_us, 0));
      if (!runner->is_in()) continue;
      runner->misses = own.keeps_up() ? 0 : runner->misses + 1;
      if (runner->misses > 0) {
        row.back() += fmt::format(", not kept up: {:.0f} % in time", own.achieved.median() * 100);
      }
    }
    row.push_back(spread(runners[0]->figures.lag_us, 0));
    table.add(row);
    const auto is_in = [](const auto& runner) { return runner->is_in(); };
    if (!runners[0]->is_in() || std::ranges::count_if(runners, is_in) == 1) break;
  }
}

void run(const std::string& binary, size_t rounds, size_t seconds,
         const std::vector<size_t>& rates) {
  if (std::thread::hardware_concurrency() < 2) throw Failure("needs two cores");
  raise_open_files_limit();
  pin_to_core(kLoadCore);
  const Backend backend;
  Proxy proxy(
      {.binary = binary, .backend_ports = backend.ports(), .threads = 1, .core = kMeasuredCore});
  const auto nginx = Peer::start_nginx(backend.port());
  const auto haproxy = Peer::start_haproxy(backend.port());
  fmt::print(
      "## Open loop\n\n{}; commit {}.\n{} rounds, runs of {} s, replies of {} B, at most {} "
      "connections; median (min..max); measured on core {}, load and backend on core {}.\n",
      describe_machine(), describe_commit(), rounds, seconds, kReplyBytes, kConnectionsMax,
      kMeasuredCore, kLoadCore);
  std::fflush(stdout);
  Runners runners;
  const auto add = [&](Way way, uint16_t port) {
    runners.push_back(std::make_unique<Runner>(Runner{.way = std::move(way), .port = port}));
  };
  add({.name = "direct"}, backend.port());
  add({.name = "proxy", .pid = proxy.pid()}, proxy.port());
  runners.back()->tokens = proxy.tokens();
  runners.back()->proxy = &proxy;
  for (const Peer* peer : {nginx.get(), haproxy.get()}) {
    add({.name = peer->name(), .pid = peer->pid()}, peer->port(false));
  }
  const Schedule warm_up = make_schedule(kRate, 1, 0);
  for (const auto& runner : runners) run_once(*runner, warm_up);
  run_rate(runners, kRate, rounds, seconds);
  print_rate(runners, kRate);
  run_frontier(runners, rates, std::max<size_t>(rounds / kFrontierShare, 1), seconds);
  const Bills& bills = runners[1]->way.bills;
  proxy.stop_and_check(bills);
  print_bills(bills.size());
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  const size_t rounds = argc > 2 ? number_of(argv[2]) : kRoundsDefault;
  const size_t seconds = argc > 3 ? number_of(argv[3]) : kSecondsDefault;
  std::vector<size_t> rates;
  for (int i = 4; i < argc; ++i) rates.push_back(number_of(argv[i]));
  if (argc < 2 || rounds == 0 || seconds == 0 || std::ranges::count(rates, 0u) > 0) {
    fmt::print(stderr, "usage: open_loop BINARY [ROUNDS [SECONDS [RATE...]]]\n");
    return 64;
  }
  if (rates.empty()) {
    constexpr size_t kStep = 2'000, kMost = 40'000;
    rates = {1'000};
    for (size_t rate = kStep; rate <= kMost; rate += kStep) rates.push_back(rate);
  }
  return run_program("open_loop", [&] { run(argv[1], rounds, seconds, rates); });
}
