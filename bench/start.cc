// How long a start takes that finds much: from the start of the process to its first answer, with
// 10,000 backends and a million events that no database has; and with neither. Fails when the bills
// do not add up, never by time. start BINARY [EVENTS]
#include <fmt/format.h>

#include <cstdio>
#include <string_view>

#include "backend.h"
#include "load.h"

namespace llmproxy::bench {
namespace {

const size_t kRounds = usual_or_short<size_t>(9);
const size_t kBackends = usual_or_short<size_t>(10'000);
constexpr size_t kConnections = 256;  // that make the backlog
constexpr size_t kEventsDefault = 1'000'000;

// Milliseconds from a kill to the first answer of the next process.
double start_ms(Proxy& proxy, int64_t& sequence, Bills& bills) {
  const int64_t begin = monotonic_ns();
  proxy.kill_and_launch();
  Load load(proxy.port(), proxy.tokens(), Ask{}, 1);
  load.begin(sequence, bills);
  load.finish();
  return static_cast<double>(monotonic_ns() - begin) / 1e6;
}

Samples start_again_and_again(const Proxy::Options& options, int64_t events, size_t& requests) {
  Proxy proxy(options);
  int64_t sequence = 0;
  Bills bills;
  proxy.hold_database();
  if (events > 0) {
    Load load(proxy.port(), proxy.tokens(), Ask{}, kConnections);
    while (sequence < events) load.run(sequence, bills);
  }
  Samples samples;
  for (size_t round = 0; round < kRounds; ++round) samples.add(start_ms(proxy, sequence, bills));
  proxy.let_database_go();
  await_bills(proxy, bills.size());
  proxy.stop_and_check(bills);
  requests += bills.size();
  return samples;
}

void run(const std::string& binary, int64_t events) {
  const Backend backend;
  fmt::print(
      "## Start\n\n{}; commit {}.\n{} starts after a kill, each until its first answer; all cores "
      "free to all.\n\n",
      describe_machine(), describe_commit(), kRounds);
  std::fflush(stdout);
  size_t requests = 0;
  {
    Table table({"", "ms"});
    Proxy::Options options{.binary = binary, .backend_ports = backend.ports()};
    table.add({"1 backend, no events", spread(start_again_and_again(options, 0, requests), 0)});
    options.backends = kBackends;
    table.add({fmt::format("{} backends, {} events unshipped", kBackends, events),
               spread(start_again_and_again(options, events, requests), 0)});
  }
  print_bills(requests);
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  const size_t events = argc > 2 ? number_of(argv[2]) : kEventsDefault;
  if (argc < 2 || argc > 3 || events == 0) {
    fmt::print(stderr, "usage: start BINARY [EVENTS]\n");
    return 64;
  }
  return run_program("start", [&] { run(argv[1], static_cast<int64_t>(events)); });
}
