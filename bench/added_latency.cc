// What stands in between adds to a reply, to the first byte of a stream and to each event: one
// connection, direct, through the proxy, and through nginx and HAProxy that merely forward, in
// turn. Fails when the bills do not add up, never by time. added_latency BINARY [ROUNDS]
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "backend.h"
#include "figures.h"
#include "load.h"
#include "peers.h"
#include "proxy.h"
#include "wire.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 11;
constexpr size_t kPlainPerRound = 200;
constexpr size_t kStreamsPerRound = 20;
constexpr size_t kEventsPerStream = 32;
constexpr std::chrono::milliseconds kPace{2};
constexpr double kNsPerUs = 1000;

enum Figure { kPlain, kFirstByte, kDelivery, kGap, kEnd, kFigures };
constexpr std::array<const char*, kFigures> kNames = {
    "Plain reply, whole", "Stream, first byte", "Stream, an event", "Stream, gap of events",
    "Stream, end (the last event and what follows it)"};

using Figures = std::array<Samples, kFigures>;

// One keep-alive connection that waits for each reply.
class Client {
 public:
  Client(uint16_t port, std::string token) : fd_(connect_to(port)), token_(std::move(token)) {}

  void plain(int64_t sequence, Figures& figures) {
    const int64_t sent = send(false, sequence);
    int64_t now = 0;
    while (!reply_.is_done()) now = read_some();
    figures[kPlain].add(us(now - sent));
    check(reply_.body().size() == kPlainBodyBytes);
  }

  void stream(int64_t sequence, Figures& figures);

 private:
  static double us(int64_t ns) { return static_cast<double>(ns) / kNsPerUs; }

  int64_t send(bool is_stream, int64_t sequence) {
    const std::string request = make_request(
        token_, {.is_stream = is_stream, .events = kEventsPerStream, .pace = kPace}, sequence);
    reply_.reset();
    const int64_t now = monotonic_ns();
    send_all(fd_.get(), request);
    return now;
  }

  int64_t read_some() {
    std::array<char, 65536> bytes;
    const ssize_t count = recv(fd_.get(), bytes.data(), bytes.size(), 0);
    const int64_t now = monotonic_ns();
    if (count < 0) fail_errno("recv");
    if (count == 0) throw Failure("the connection was closed in the middle of a reply");
    reply_.feed({bytes.data(), static_cast<size_t>(count)});
    return now;
  }

  void check(bool is_right) const {
    if (reply_.status() == "200" && is_right) return;
    throw Failure(fmt::format("status {}, not the reply of the backend:\n{}", reply_.status(),
                              reply_.body()));
  }

  Fd fd_;
  std::string token_;
  ReplyReader reply_;
};

// The first event comes with the head: its way is that of the first byte. The last comes with the
// end, which waits for the bill.
void Client::stream(int64_t sequence, Figures& figures) {
  const int64_t sent = send(true, sequence);
  size_t events = 0, taken = 0;
  int64_t now = 0, last_arrival = 0, last_stamp = 0;
  bool has_begun = false;
  while (!reply_.is_done()) {
    now = read_some();
    if (!has_begun) figures[kFirstByte].add(us(now - sent));
    has_begun = true;
    const std::string_view body = reply_.body();
    for (size_t end; (end = body.find("\n\n", taken)) != std::string_view::npos; taken = end + 2) {
      const int64_t stamp = stamp_of(body.substr(taken, end - taken));
      if (stamp == 0) continue;
      last_stamp = stamp;
      if (++events > 1 && events < kEventsPerStream) {
        figures[kDelivery].add(us(now - stamp));
        figures[kGap].add(us(now - last_arrival));
      }
      last_arrival = now;
    }
  }
  figures[kEnd].add(us(now - last_stamp));
  // Whoever asked for usage, this client did not.
  check(events == kEventsPerStream && reply_.body().ends_with("data: [DONE]\n\n") &&
        reply_.body().find("usage") == std::string_view::npos);
}

// A way with its clients, what they measured, and the bills that their requests must leave.
class Side {
 public:
  Side(std::string name, uint16_t port, uint16_t stream_port, const std::string& token)
      : name_(std::move(name)), plain_(port, token), streaming_(stream_port, token) {}

  void run(size_t plain, size_t streams, bool is_counted) {
    Figures round;
    for (size_t i = 0; i < plain; ++i) {
      plain_.plain(++sequence_, round);
      bills_[sequence_] = kPlainCompletionTokens;
    }
    for (size_t i = 0; i < streams; ++i) {
      streaming_.stream(++sequence_, round);
      bills_[sequence_] = static_cast<int64_t>(kEventsPerStream);
    }
    if (!is_counted) return;
    for (size_t i = 0; i < kFigures; ++i) {
      all_[i].add_all(round[i]);
      medians_[i].add(round[i].median());
    }
  }

  const std::string& name() const { return name_; }
  const Samples& all(size_t figure) const { return all_[figure]; }
  const Samples& medians(size_t figure) const { return medians_[figure]; }
  const Bills& bills() const { return bills_; }

 private:
  std::string name_;
  Client plain_, streaming_;
  int64_t sequence_ = 0;
  Figures all_, medians_;
  Bills bills_;
};

using Sides = std::vector<std::unique_ptr<Side>>;

void print_figure(size_t figure, const Sides& sides) {
  fmt::print("\n### {}, us\n\n", kNames[figure]);
  Table table({"", "p50", "p99", "p99.9", "max", "median of the rounds", "more than direct"});
  for (const auto& side : sides) {
    const Samples& all = side->all(figure);
    const Samples added = combine(side->medians(figure), sides[0]->medians(figure), std::minus<>());
    table.add({side->name(), fmt::format("{:.0f}", all.median()),
               fmt::format("{:.0f}", all.percentile(99)),
               fmt::format("{:.0f}", all.percentile(99.9)), fmt::format("{:.0f}", all.max()),
               spread(side->medians(figure), 0), side == sides[0] ? "" : spread(added, 0)});
  }
}

void run(const std::string& binary, size_t rounds) {
  const Backend backend;
  Proxy proxy({.binary = binary, .backend_ports = backend.ports()});
  const auto nginx = Peer::start_nginx(backend.port(), false, kAnyCore);
  const auto haproxy = Peer::start_haproxy(backend.port(), false, kAnyCore);
  fmt::print(
      "## Added latency\n\n{}; commit {}.\n"
      "{} rounds, in each {} plain replies of {} B and {} streams of {} events of {} B, one every "
      "{} ms; one connection, all cores free to all.\n",
      describe_machine(), describe_commit(), rounds, kPlainPerRound, kPlainBodyBytes,
      kStreamsPerRound, kEventsPerStream, kEventBytes, kPace.count());
  std::fflush(stdout);
  Sides sides;
  const auto add = [&](std::string name, uint16_t port, uint16_t stream_port,
                       const std::string& token) {
    sides.push_back(std::make_unique<Side>(std::move(name), port, stream_port, token));
  };
  add("direct", backend.port(), backend.port(), "none");
  add("proxy", proxy.port(), proxy.port(), proxy.tokens()[0]);
  for (const Peer* peer : {nginx.get(), haproxy.get()}) {
    add(peer->name(), peer->port(false), peer->port(true), "none");
  }
  std::vector<Side*> order;
  for (const auto& side : sides) {
    side->run(kPlainPerRound, 1, false);
    order.push_back(side.get());
  }
  for (size_t round = 0; round < rounds; ++round) {
    for (Side* side : order) side->run(kPlainPerRound, kStreamsPerRound, true);
    std::rotate(order.begin(), order.begin() + 1, order.end());
  }
  const Bills& bills = sides[1]->bills();
  proxy.stop_and_check(bills);
  for (size_t figure = 0; figure < kFigures; ++figure) print_figure(figure, sides);
  print_bills(bills.size());
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  const size_t rounds = argc > 2 ? number_of(argv[2]) : kRoundsDefault;
  if (argc < 2 || argc > 3 || rounds == 0) {
    fmt::print(stderr, "usage: added_latency BINARY [ROUNDS]\n");
    return 64;
  }
  return run_program("added_latency", [&] { run(argv[1], rounds); });
}
