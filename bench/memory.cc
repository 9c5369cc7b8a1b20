// Memory of idle connections and of open slow streams: what a process and all below it have more
// than without any, each. The proxy, nginx and HAProxy. Fails when the bills do not add up, never
// by figures. memory BINARY [CONNECTIONS...]
#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <sstream>
#include <string_view>
#include <thread>
#include <vector>

#include "backend.h"
#include "load.h"
#include "peers.h"

namespace llmproxy::bench {
namespace {

// A stream that is open for this long, with an event every kPace; looked at in the middle.
const std::chrono::milliseconds kPace = usual_or_short(std::chrono::milliseconds(2'000));
constexpr size_t kEvents = 6;
const std::chrono::milliseconds kLookAfter = usual_or_short(std::chrono::milliseconds(6'000));
// Until a process has given back what it keeps for a while: ours takes some seconds to be sure.
const std::chrono::milliseconds kSettle = usual_or_short(std::chrono::milliseconds(4'000));

// Bytes in memory of the process and of all below it, shared ones counted once for each.
double resident_bytes(pid_t pid) {
  constexpr double kKib = 1024;
  double all = 0;
  for (const pid_t each : process_tree(pid)) {
    const std::string status = read_file(fmt::format("/proc/{}/status", each));
    const size_t at = status.find("VmRSS:");
    if (at == std::string::npos) throw Failure("a measured process has ended");
    double kib = 0;
    std::istringstream(status.substr(at + 6)) >> kib;
    all += kib * kKib;
  }
  return all;
}

// One that is measured, fresh for each figure.
struct Subject {
  pid_t pid;
  uint16_t port;
  std::vector<std::string> tokens;
  std::function<void(const Bills&)> end;
  std::unique_ptr<Proxy> proxy{};
  std::unique_ptr<Peer> peer{};
};
using Start = std::function<std::unique_ptr<Subject>()>;

struct MemoryFigures {
  double base = 0, idle_each = 0, stream_each = 0;
};

void ask_once(const Subject& subject, const Ask& ask, int64_t& sequence, Bills& bills) {
  Load load(subject.port, subject.tokens, ask, 1);
  load.begin(sequence, bills);
  load.finish();
}

// Each connection has had one request.
double look_at_idle(const Start& start, size_t connections, double& base) {
  const std::unique_ptr<Subject> subject = start();
  int64_t sequence = 0;
  Bills bills;
  ask_once(*subject, Ask{}, sequence, bills);
  base = resident_bytes(subject->pid);
  Load load(subject->port, subject->tokens, Ask{}, connections);
  load.begin(sequence, bills);
  load.finish();
  std::this_thread::sleep_for(kSettle);
  const double more = resident_bytes(subject->pid) - base;
  subject->end(bills);
  return more / static_cast<double>(connections);
}

double look_at_streams(const Start& start, size_t connections) {
  const std::unique_ptr<Subject> subject = start();
  int64_t sequence = 0;
  Bills bills;
  ask_once(*subject, {.is_stream = true, .events = 2}, sequence, bills);
  const double base = resident_bytes(subject->pid);
  Load load(subject->port, subject->tokens, {.is_stream = true, .events = kEvents, .pace = kPace},
            connections);
  load.begin(sequence, bills);
  load.serve_until(monotonic_ns() + std::chrono::nanoseconds(kLookAfter).count());
  const double more = resident_bytes(subject->pid) - base;
  load.finish();
  subject->end(bills);
  return more / static_cast<double>(connections);
}

std::unique_ptr<Subject> start_proxy(const std::string& binary, uint16_t backend_port) {
  auto proxy = std::make_unique<Proxy>(Proxy::Options{
      .binary = binary, .backend_ports = {backend_port}, .threads = 1, .core = kMeasuredCore});
  Proxy& it = *proxy;
  auto end = [&it](const Bills& bills) { it.stop_and_check(bills); };
  return std::make_unique<Subject>(
      Subject{it.pid(), it.port(), it.tokens(), std::move(end), std::move(proxy)});
}

std::unique_ptr<Subject> start_peer(std::unique_ptr<Peer> peer) {
  Peer& it = *peer;
  return std::make_unique<Subject>(
      Subject{it.pid(), it.port(true), {"none"}, [](const Bills&) {}, nullptr, std::move(peer)});
}

// Those of `counts` that the limit of open files allows, and the most it does instead of others.
std::vector<size_t> allowed(std::vector<size_t> counts) {
  const size_t most = connections_max();
  for (size_t& count : counts) {
    if (count <= most) continue;
    fmt::print("The limit of open files allows {} connections, not {}.\n\n", most, count);
    count = most;
  }
  return counts;
}

void run(const std::string& binary, const std::vector<size_t>& counts) {
  pin_to_core(kLoadCore);
  const Backend backend;
  fmt::print(
      "## Memory\n\n{}; commit {}.\nResident bytes of the process tree above its base, each;"
      " streams with an event every {} ms.\n\n",
      describe_machine(), describe_commit(), kPace.count());
  std::fflush(stdout);
  const std::vector<std::pair<std::string, Start>> starts{
      {"proxy", [&] { return start_proxy(binary, backend.port()); }},
      {"nginx", [&] { return start_peer(Peer::start_nginx(backend.port())); }},
      {"haproxy", [&] { return start_peer(Peer::start_haproxy(backend.port())); }},
  };
  Table table({"", "connections", "base MiB", "KiB per idle connection", "KiB per open stream"});
  constexpr double kKib = 1024, kMib = 1024 * 1024;
  for (const size_t connections : allowed(counts)) {
    for (const auto& [name, start] : starts) {
      MemoryFigures figures;
      figures.idle_each = look_at_idle(start, connections, figures.base);
      figures.stream_each = look_at_streams(start, connections);
      table.add({name, fmt::format("{}", connections), fmt::format("{:.1f}", figures.base / kMib),
                 fmt::format("{:.2f}", figures.idle_each / kKib),
                 fmt::format("{:.2f}", figures.stream_each / kKib)});
    }
  }
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  std::vector<size_t> counts;
  for (int i = 2; i < argc; ++i) counts.push_back(number_of(argv[i]));
  if (argc < 2 || std::ranges::count(counts, 0u) > 0) {
    fmt::print(stderr, "usage: memory BINARY [CONNECTIONS...]\n");
    return 64;
  }
  if (counts.empty()) counts = {1'000, 5'000, 10'000};
  return run_program("memory", [&] { run(argv[1], counts); });
}
