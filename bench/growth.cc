// What a request costs as things grow: keys, backends, prompts, servers. The variants in turn, each
// a proxy of its own, its key cache warm but for the one that has none. Fails when the bills do not
// add up, never by figures. growth BINARY [ROUNDS]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "backend.h"
#include "load.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 9;
constexpr size_t kConnections = 64;
const size_t kBackendsMax = usual_or_short<size_t>(1'000);
const size_t kKeysMax = usual_or_short<size_t>(10'000);

struct Variant {
  std::string name;
  size_t keys = 1, backends = 1;
  unsigned threads = 1;
  size_t request_bytes = kRequestBodyBytes;
  bool has_key_cache = true;
};

class Side {
 public:
  Side(const std::string& binary, const std::vector<uint16_t>& ports, const Variant& variant)
      : proxy_({.binary = binary,
                .backend_ports = ports,
                .threads = variant.threads,
                .keys = variant.keys,
                .backends = variant.backends,
                .has_key_cache = variant.has_key_cache,
                .core = variant.threads > 1 ? kAnyCore : kMeasuredCore}),
        load_(proxy_.port(), proxy_.tokens(),
              {.request_bytes = variant.request_bytes, .models = variant.backends}, kConnections),
        keys_(variant.keys),
        name_(variant.name) {
    way_.pid = proxy_.pid();
  }

  // Every key is known, and every backend has its connections.
  void warm_up(size_t keys) {
    do {
      run(false);
    } while (way_.bills.size() < 2 * keys);
  }
  // A round of all ways takes longer than a key is used unasked: each would be looked up in it.
  void refresh_keys() {
    if (keys_ == 1) return;
    for (const size_t sent = way_.bills.size(); way_.bills.size() < sent + keys_;) run(false);
  }
  void run(bool is_counted) {
    measure(way_, load_, figures_, is_counted, [&] { await_bills(proxy_, way_.bills.size()); });
  }
  void stop() { proxy_.stop_and_check(way_.bills); }
  const std::string& name() const { return name_; }
  const LoadFigures& figures() const { return figures_; }
  size_t requests() const { return way_.bills.size(); }

 private:
  Proxy proxy_;
  Load load_;
  Way way_;
  LoadFigures figures_;
  const size_t keys_;
  const std::string name_;
};

// The first variant is what the others are compared with.
size_t compare(const char* title, const std::string& binary, const Backend& backend,
               const std::vector<Variant>& variants, size_t rounds) {
  std::vector<std::unique_ptr<Side>> sides;
  std::vector<Side*> order;
  for (const Variant& variant : variants) {
    sides.push_back(std::make_unique<Side>(binary, backend.ports(), variant));
    sides.back()->warm_up(std::max(variant.keys, variant.backends));
    order.push_back(sides.back().get());
  }
  for (size_t round = 0; round < rounds; ++round) {
    for (Side* side : order) {
      side->refresh_keys();
      side->run(true);
    }
    std::rotate(order.begin(), order.begin() + 1, order.end());
  }
  fmt::print("\n### {}\n\n", title);
  size_t requests = 0;
  Table table({"", "requests/s", "CPU us/request", "over the first"});
  for (const auto& side : sides) {
    side->stop();
    requests += side->requests();
    const LoadFigures& own = side->figures();
    table.add({side->name(), spread(own.rate, 0), spread(own.cpu_us, 1),
               spread(combine(own.cpu_us, sides[0]->figures().cpu_us, std::divides<>()), 2)});
  }
  return requests;
}

void run(const std::string& binary, size_t rounds) {
  raise_open_files_limit();
  pin_to_core(kLoadCore);
  const Backend backend(kBackendsMax);
  fmt::print("## As things grow\n\n{}; commit {}.\n{} rounds, runs of {} ms, {} connections.\n",
             describe_machine(), describe_commit(), rounds, kRun.count(), kConnections);
  std::fflush(stdout);
  std::vector<Variant> crowds;
  for (const auto& [keys, backends] : std::vector<std::pair<size_t, size_t>>{
           {1, 10}, {100, 10}, {kKeysMax, 10}, {1, kBackendsMax}, {kKeysMax, kBackendsMax}}) {
    crowds.push_back({.name = fmt::format("keys {}, backends {}", keys, backends),
                      .keys = keys,
                      .backends = backends});
  }
  crowds.push_back({.name = fmt::format("keys {}, a look-up each (key_ttl 0)", kKeysMax),
                    .keys = kKeysMax,
                    .backends = 10,
                    .has_key_cache = false});
  size_t requests = compare("Keys and backends", binary, backend, crowds, rounds);
  std::vector<Variant> prompts;
  for (const size_t bytes : {1'024u, 256u, 10'240u, 102'400u, 1'024'000u}) {
    prompts.push_back({.name = fmt::format("bodies of {} B", bytes), .request_bytes = bytes});
  }
  requests += compare("Prompts", binary, backend, prompts, rounds);
  requests +=
      compare("Servers; two share their cores with load and backend", binary, backend,
              {{.name = "1 server", .threads = 1}, {.name = "2 servers", .threads = 2}}, rounds);
  print_bills(requests);
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  const size_t rounds = argc > 2 ? number_of(argv[2]) : kRoundsDefault;
  if (argc < 2 || argc > 3 || rounds == 0) {
    fmt::print(stderr, "usage: growth BINARY [ROUNDS]\n");
    return 64;
  }
  return run_program("growth", [&] { run(argv[1], rounds); });
}
