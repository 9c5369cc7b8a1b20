// System calls per request, all threads of each process counted by strace: the proxy, nginx,
// HAProxy. What a call costs is no matter here, so tracing them does no harm. Fails when the bills
// do not add up, never by figures. Where the system forbids to trace, as some containers do, it
// says so and counts nothing. system_calls BINARY
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <sstream>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "backend.h"
#include "load.h"
#include "peers.h"

namespace llmproxy::bench {
namespace {

struct Lane {
  std::string title;
  Ask ask;
  size_t connections;
};

const std::vector<Lane>& lanes() {
  static const std::vector<Lane> all{
      {"JSON, 64 connections", {.body_bytes = 1'024}, 64},
      {"SSE, a burst of 64 chunks, 64 connections", {.is_stream = true, .events = 64}, 64},
      {"SSE, 40 chunks, one every 20 ms, 200 streams",
       {.is_stream = true, .events = 40, .pace = std::chrono::milliseconds(20)},
       200},
  };
  return all;
}

using Calls = std::vector<std::pair<std::string, double>>;  // by name, most first

// Its table: "% time, seconds, usecs/call, calls, errors or nothing, name".
Calls read_summary(const std::string& text) {
  Calls calls;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    double share = 0, seconds = 0, each = 0, count = 0;
    if (!(words >> share >> seconds >> each >> count)) continue;
    std::string name;
    for (std::string word; words >> word;) name = word;
    if (name != "total") calls.emplace_back(name, count);
  }
  std::sort(calls.begin(), calls.end(),
            [](const auto& a, const auto& b) { return a.second > b.second; });
  return calls;
}

// strace is there, but may not.
struct Forbidden : Failure {
  using Failure::Failure;
};

bool is_traced(pid_t pid) {
  const std::string status = read_file(fmt::format("/proc/{}/status", pid));
  const size_t at = status.find("TracerPid:\t");
  return at != std::string::npos && status[at + std::string_view("TracerPid:\t").size()] != '0';
}

// Of one run of the load.
Calls count_calls(pid_t pid, Load& load, Way& way, int64_t& requests) {
  const TemporaryDirectory directory;
  const std::string output = directory.path() + "/summary";
  std::vector<std::string> command{"strace", "-c", "-f", "-o", output};
  const std::vector<pid_t> tree = process_tree(pid);
  for (const pid_t each : tree) command.insert(command.end(), {"-p", std::to_string(each)});
  const std::string errors = directory.path() + "/errors";
  Process strace(command, {.errors = errors}, kLoadCore);
  for (int64_t looks = kDeliveryMax / kBetweenLooks; !std::ranges::all_of(tree, is_traced);
       --looks) {
    if (strace.has_ended() || looks == 0) {
      const std::string why = read_file(errors);
      if (why.find("Operation not permitted") != std::string::npos) throw Forbidden(why);
      throw Failure("strace does not trace; run: tools/install-packages bench\n" + why);
    }
    std::this_thread::sleep_for(kBetweenLooks);
  }
  requests = load.run(way.sequence, way.bills);
  strace.signal(SIGINT);
  strace.wait();
  return read_summary(read_file(output));
}

void run(const std::string& binary) {
  raise_open_files_limit();
  pin_to_core(kLoadCore);
  const Backend backend;
  Proxy proxy(
      {.binary = binary, .backend_ports = backend.ports(), .threads = 1, .core = kMeasuredCore});
  const auto nginx = Peer::start_nginx(backend.port());
  const auto haproxy = Peer::start_haproxy(backend.port());
  fmt::print(
      "## System calls per request\n\n{}; commit {}.\nOf all threads; two reads and two "
      "writes are the floor of a plain reply.\n",
      describe_machine(), describe_commit());
  Way through{.name = "proxy", .pid = proxy.pid()};
  Way others{};
  try {
    for (const Lane& lane : lanes()) {
      fmt::print("\n### {}\n\n", lane.title);
      Table table({"", "calls/request", "of them"});
      const auto add = [&](const std::string& name, pid_t pid, uint16_t port, Way& way,
                           const std::vector<std::string>& tokens) {
        Load load(port, tokens, lane.ask, lane.connections);
        load.run(way.sequence, way.bills);  // to warm up
        int64_t requests = 0;
        const Calls calls = count_calls(pid, load, way, requests);
        double all = 0;
        std::string most;
        constexpr size_t kShown = 7;
        for (size_t i = 0; i < calls.size(); ++i) {
          const double each = calls[i].second / static_cast<double>(requests);
          all += each;
          if (i < kShown)
            most += fmt::format("{}{} {:.2f}", i > 0 ? ", " : "", calls[i].first, each);
        }
        table.add({name, fmt::format("{:.2f}", all), most});
      };
      add("proxy", proxy.pid(), proxy.port(), through, proxy.tokens());
      for (const Peer* peer : {nginx.get(), haproxy.get()}) {
        add(peer->name(), peer->pid(), peer->port(lane.ask.is_stream), others, {"none"});
      }
    }
  } catch (const Forbidden& why) {
    fmt::print("\nNothing is counted: the system forbids to trace. strace says:\n{}\n", why.what());
  }
  proxy.stop_and_check(through.bills);
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  if (argc != 2) {
    fmt::print(stderr, "usage: system_calls BINARY\n");
    return 64;
  }
  return run_program("system_calls", [&] { run(argv[1]); });
}
