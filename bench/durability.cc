// What it costs that every bill is durable before its answer ends: the same load through two
// proxies, in turn, of which one has the ledger's syncs taken away (bench/nosync.cc). One core for
// the proxy, another for load and backend. Beside it what one commit takes on that disk, and what
// it adds to a lone connection through a loop that only copies. Fails when the bills do not add up,
// never by time. durability BINARY NOSYNC_LIBRARY [ROUNDS]
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>

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

  void commit() {
    const auto offset = static_cast<off_t>(next_++ % kBlocks * kBlockBytes);
    if (pwrite(fd_.get(), block_, kBlockBytes, offset) != ssize_t{kBlockBytes}) {
      fail_errno("pwrite");
    }
  }

  // Of one after the other, on the core of the proxies: a disk's interrupts reach one core sooner
  // than another.
  double median_us() {
    pin_to_core(kMeasuredCore);
    Samples samples;
    for (size_t i = 0; i < kBlocks; ++i) {
      const int64_t begin = monotonic_ns();
      commit();
      samples.add(static_cast<double>(monotonic_ns() - begin) / 1000);
    }
    pin_to_core(kLoadCore);
    return samples.median();
  }

 private:
  static constexpr size_t kBlocks = 200, kBlockBytes = 4096;
  Fd fd_;
  size_t next_ = 0;
  alignas(kBlockBytes) char block_[kBlockBytes] = {};
};

// Copies requests and replies of one connection on the core of the proxies, and commits before each
// reply if it is given a probe. Between two of its commits lies what lies between two of a proxy's:
// cores that go to sleep and wake, and a network that has its turn. A probe alone has none of that.
class CopyLoop {
 public:
  CopyLoop(uint16_t backend_port, DiskProbe* probe)
      : listener_(listen_on(port_)), thread_([=, this] { run(backend_port, probe); }) {}
  ~CopyLoop() {  // its client has gone by then
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  CopyLoop(const CopyLoop&) = delete;
  CopyLoop& operator=(const CopyLoop&) = delete;
  uint16_t port() const { return port_; }

 private:
  void run(uint16_t backend_port, DiskProbe* probe) {
    pin_to_core(kMeasuredCore);
    const Fd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (client.get() < 0) return;
    prepare(client.get());
    const Fd backend = connect_to(backend_port);
    std::array<char, kCopyBytes> bytes;
    for (;;) {
      const ssize_t size = recv(client.get(), bytes.data(), bytes.size(), 0);
      if (size <= 0) return;
      send_all(backend.get(), {bytes.data(), static_cast<size_t>(size)});
      std::string reply;
      for (ReplyReader reader; !reader.is_done();) {
        const ssize_t got = recv(backend.get(), bytes.data(), bytes.size(), 0);
        if (got <= 0) return;
        reader.feed({bytes.data(), static_cast<size_t>(got)});
        reply.append(bytes.data(), static_cast<size_t>(got));
      }
      if (probe != nullptr) probe->commit();
      send_all(client.get(), reply);
    }
  }

  static constexpr size_t kCopyBytes = 16384;  // a request comes in one piece
  uint16_t port_ = 0;
  Fd listener_;
  std::thread thread_;
};

// Such a loop, and the load on it.
class CopySide {
 public:
  CopySide(uint16_t backend_port, DiskProbe* probe)
      : loop_(backend_port, probe), load_(loop_.port(), {"none"}, Ask{}, 1) {}
  void measure(bool is_counted) {
    Bills bills;
    load_.run(sequence_, bills);
    if (is_counted) latency_us.add(load_.latencies().median());
  }
  Samples latency_us;

 private:
  CopyLoop loop_;
  Load load_;
  int64_t sequence_ = 0;
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
        std::make_unique<Load>(side->proxy->port(), side->proxy->tokens(), Ask{}, kConnections[i]);
  }
  return side;
}

void measure_side(Side& side, size_t lane, bool is_counted) {
  measure(side.way, *side.loads[lane], side.figures[lane], is_counted,
          [&] { await_bills(*side.proxy, side.way.bills.size()); });
}

// What commits added and what they took.
struct Commits {
  Samples copied_us;  // more through a loop that commits than through one that does not
  Samples alone_us;   // one after the other
};

void print(const Side& durable, const Side& unsynced, const Commits& commits) {
  for (size_t lane = 0; lane < kConnections.size(); ++lane) {
    const LoadFigures &with = durable.figures[lane], &without = unsynced.figures[lane];
    fmt::print("\n### {} connections\n\n", kConnections[lane]);
    Table table({"", "durable", "syncs taken away", "ratio"});
    const auto row = [&](const char* name, const Samples& one, const Samples& other, int digits) {
      table.add({name, spread(one, digits), spread(other, digits),
                 spread(combine(one, other, std::divides<>()), 2)});
    };
    row("CPU us/request", with.cpu_us, without.cpu_us, 1);
    row("requests/s", with.rate, without.rate, 0);
    row("latency us", with.latency_us, without.latency_us, 0);
    row("core busy %", with.busy, without.busy, 0);
  }
  const Samples more = combine(durable.figures.back().latency_us,
                               unsynced.figures.back().latency_us, std::minus<>());
  fmt::print("\n### What a commit adds to the latency of 1 connection, us\n\n");
  Table table({"", "median (min..max) of the rounds"});
  table.add({"the proxy, more than with its syncs taken away", spread(more, 0)});
  table.add({"a loop that copies, more with one commit (4 KiB, O_DIRECT and O_DSYNC)",
             spread(commits.copied_us, 0)});
  table.add({"such commits, one after the other", spread(commits.alone_us, 0)});
}

void run(const std::string& binary, const std::string& library, size_t rounds) {
  fmt::print("## What durability costs\n\n{}; commit {}.\n", describe_machine(), describe_commit());
  pin_to_core(kLoadCore);
  const Backend backend;
  Proxy::Options options{
      .binary = binary, .backend_ports = backend.ports(), .threads = 1, .core = kMeasuredCore};
  const auto durable = make_side("durable", options);
  options.nosync_library = library;
  const auto unsynced = make_side("unsynced", options);
  const TemporaryDirectory directory;
  DiskProbe probe(directory.path());
  CopySide copying(backend.port(), nullptr), committing(backend.port(), &probe);
  Commits commits;
  fmt::print("{} rounds, runs of {} ms; measured on core {}, load and backend on core {}\n", rounds,
             kRun.count(), kMeasuredCore, kLoadCore);
  std::fflush(stdout);
  std::array<Side*, 2> sides{durable.get(), unsynced.get()};
  for (size_t round = 0; round <= rounds; ++round) {  // the first is to warm up
    for (size_t lane = 0; lane < kConnections.size(); ++lane) {
      for (Side* side : sides) measure_side(*side, lane, round > 0);
    }
    copying.measure(round > 0);
    committing.measure(round > 0);
    if (round > 0) commits.alone_us.add(probe.median_us());
    std::swap(sides[0], sides[1]);
  }
  for (Side* side : sides) side->proxy->stop_and_check(side->way.bills);
  commits.copied_us = combine(committing.latency_us, copying.latency_us, std::minus<>());
  print(*durable, *unsynced, commits);
  fmt::print("{} requests, {} bills, each count right\n",
             durable->way.bills.size() + unsynced->way.bills.size(),
             durable->way.bills.size() + unsynced->way.bills.size());
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  const size_t rounds = argc > 3 ? number_of(argv[3]) : kRoundsDefault;
  if (argc < 3 || argc > 4 || rounds == 0) {
    fmt::print(stderr, "usage: durability BINARY NOSYNC_LIBRARY [ROUNDS]\n");
    return 64;
  }
  return run_program("durability", [&] { run(argv[1], argv[2], rounds); });
}
