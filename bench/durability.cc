// What it costs that every bill is durable before its answer ends: the same load through two
// proxies, in turn, of which one has the ledger's syncs taken away (bench/nosync.cc). One core for
// the proxy, another for load and backend. Beside it what one commit takes on that disk. Fails when
// the bills do not add up, never by time. durability BINARY NOSYNC_LIBRARY [ROUNDS]
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <string_view>

#include "backend.h"
#include "load.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 9;
constexpr std::array<size_t, 3> kConnections = {256, 64, 1};

// Writes of one block as the ledger makes them: in place, in a file whose blocks are written.
class DiskProbe {
 public:
  explicit DiskProbe(const std::string& directory) {
    const std::string path = directory + "/probe";
    write_file(path, std::string(kBlocks * kBlockBytes, '\0'));
    constexpr int kDirect = O_WRONLY | O_CLOEXEC | O_DIRECT | O_DSYNC;
    fd_ = Fd(open(path.c_str(), kDirect));
    if (fd_.get() < 0) fail_errno("O_DIRECT in " + directory);
    fsync(fd_.get());
  }

  // On the core of the proxies: a disk's interrupts reach one core sooner than another.
  double median_us() {
    pin_to_core(kMeasuredCore);
    Samples samples;
    for (size_t i = 0; i < kBlocks; ++i) {
      const int64_t begin = monotonic_ns();
      const auto offset = static_cast<off_t>(i * kBlockBytes);
      if (pwrite(fd_.get(), block_, kBlockBytes, offset) != ssize_t{kBlockBytes}) {
        fail_errno("pwrite");
      }
      samples.add(static_cast<double>(monotonic_ns() - begin) / 1000);
    }
    pin_to_core(kLoadCore);
    return samples.median();
  }

 private:
  static constexpr size_t kBlocks = 200, kBlockBytes = 4096;
  Fd fd_;
  alignas(kBlockBytes) char block_[kBlockBytes] = {};
};

// A proxy and its figures for each number of connections.
struct Side {
  std::unique_ptr<Proxy> proxy;
  Way way;
  std::array<std::unique_ptr<Load>, kConnections.size()> loads;
  std::array<LoadFigures, kConnections.size()> figures;
};

std::unique_ptr<Side> make_side(const char* name, const Proxy::Options& options) {
  auto side = std::make_unique<Side>();
  side->proxy = std::make_unique<Proxy>(options);
  side->way.name = name;
  side->way.pid = side->proxy->pid();
  for (size_t i = 0; i < kConnections.size(); ++i) {
    side->loads[i] =
        std::make_unique<Load>(side->proxy->port(), side->proxy->token(), kJson, kConnections[i]);
  }
  return side;
}

void measure_side(Side& side, size_t lane, bool is_counted) {
  measure(side.way, *side.loads[lane], side.figures[lane], is_counted,
          [&] { await_bills(*side.proxy, side.way.bills.size()); });
}

// Of two lists of rounds, one by one.
template <class Operation>
Samples combine(const Samples& one, const Samples& other, Operation operation) {
  Samples results;
  for (size_t i = 0; i < std::min(one.all().size(), other.all().size()); ++i) {
    results.add(operation(one.all()[i], other.all()[i]));
  }
  return results;
}

void print(const Side& durable, const Side& unsynced, const Samples& commit_us) {
  for (size_t lane = 0; lane < kConnections.size(); ++lane) {
    const LoadFigures &with = durable.figures[lane], &without = unsynced.figures[lane];
    fmt::print("\n{} connections: median (min..max) of the rounds\n{:<14} {:>24} {:>24} {:>26}\n",
               kConnections[lane], "", "durable", "syncs taken away", "ratio");
    const auto row = [](const char* name, const Samples& one, const Samples& other, int digits) {
      fmt::print("{:<14} {:>24} {:>24} {:>26}\n", name, spread(one, digits), spread(other, digits),
                 spread(combine(one, other, std::divides<>()), 2));
    };
    row("CPU us/request", with.cpu_us, without.cpu_us, 1);
    row("requests/s", with.rate, without.rate, 0);
    row("latency us", with.latency_us, without.latency_us, 0);
    row("core busy %", with.busy, without.busy, 0);
  }
  const Samples more = combine(durable.figures.back().latency_us,
                               unsynced.figures.back().latency_us, std::minus<>());
  fmt::print("\nlatency of 1 connection, us more than without syncs: {}\n", spread(more, 0));
  fmt::print("one commit of this disk (4 KiB, O_DIRECT and O_DSYNC), us:  {}\n",
             spread(commit_us, 0));
}

void run(const std::string& binary, const std::string& library, size_t rounds) {
  fmt::print("durability: {}\ncommit {}\n", describe_machine(), describe_commit());
  pin_to_core(kLoadCore);
  Backend backend({.events = kEventsPerStream});
  Proxy::Options options{
      .binary = binary, .backend_port = backend.port(), .threads = 1, .core = kMeasuredCore};
  const auto durable = make_side("durable", options);
  options.nosync_library = library;
  const auto unsynced = make_side("unsynced", options);
  const TemporaryDirectory directory;
  DiskProbe probe(directory.path());
  Samples commit_us;
  fmt::print("{} rounds, runs of {} ms; measured on core {}, load and backend on core {}\n", rounds,
             kRun.count(), kMeasuredCore, kLoadCore);
  std::fflush(stdout);
  std::array<Side*, 2> sides{durable.get(), unsynced.get()};
  for (size_t round = 0; round <= rounds; ++round) {  // the first is to warm up
    for (size_t lane = 0; lane < kConnections.size(); ++lane) {
      for (Side* side : sides) measure_side(*side, lane, round > 0);
    }
    if (round > 0) commit_us.add(probe.median_us());
    std::swap(sides[0], sides[1]);
  }
  for (Side* side : sides) side->proxy->stop_and_check(side->way.bills);
  print(*durable, *unsynced, commit_us);
  fmt::print("{} requests, {} bills, each count right\n",
             durable->way.bills.size() + unsynced->way.bills.size(),
             durable->way.bills.size() + unsynced->way.bills.size());
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  size_t rounds = kRoundsDefault;
  if (argc == 4) {
    const std::string_view text = argv[3];
    std::from_chars(text.data(), text.data() + text.size(), rounds);
  }
  if (argc < 3 || argc > 4 || rounds == 0) {
    fmt::print(stderr, "usage: durability BINARY NOSYNC_LIBRARY [ROUNDS]\n");
    return 64;
  }
  try {
    run(argv[1], argv[2], rounds);
  } catch (const std::exception& failure) {
    fmt::print(stderr, "durability: {}\n", failure.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
