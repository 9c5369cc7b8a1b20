// What the proxy adds to a reply, to the first byte of a stream and to each event: one connection,
// direct and through, in turn. Fails when the bills do not add up, never by time. added_latency
// BINARY [ROUNDS]
#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "backend.h"
#include "figures.h"
#include "proxy.h"
#include "wire.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kRoundsDefault = 11, kRoundsMin = 9;
constexpr std::chrono::seconds kRoundsMax{45};  // no more rounds than kRoundsMin after this
constexpr size_t kPlainPerRound = 200;
constexpr size_t kStreamsPerRound = 20;
constexpr size_t kEventsPerStream = 32;
constexpr std::chrono::milliseconds kPace{2};
constexpr double kNsPerUs = 1000;

enum Figure { kPlain, kFirstByte, kDelivery, kGap, kEnd, kFigures };
constexpr std::array<const char*, kFigures> kNames = {"plain reply, whole", "stream, first byte",
                                                      "stream, an event", "stream, gap of events",
                                                      "stream, end"};

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
    const std::string request = make_request(token_, is_stream, sequence);
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
  // The proxy asked for usage, this client did not.
  check(events == kEventsPerStream && reply_.body().ends_with("data: [DONE]\n\n") &&
        reply_.body().find("usage") == std::string_view::npos);
}

// A client, what it measured, and the bills that its requests must leave.
class Side {
 public:
  Side(uint16_t port, const std::string& token) : client_(port, token) {}

  void run(size_t plain, size_t streams, bool is_counted) {
    Figures round;
    for (size_t i = 0; i < plain; ++i) {
      client_.plain(++sequence_, round);
      bills_[sequence_] = kPlainCompletionTokens;
    }
    for (size_t i = 0; i < streams; ++i) {
      client_.stream(++sequence_, round);
      bills_[sequence_] = static_cast<int64_t>(kEventsPerStream);
    }
    if (!is_counted) return;
    for (size_t i = 0; i < kFigures; ++i) {
      all_[i].add_all(round[i]);
      last_medians_[i] = round[i].median();
      medians_[i].add(last_medians_[i]);
    }
  }

  const Samples& all(size_t figure) const { return all_[figure]; }
  const Samples& medians(size_t figure) const { return medians_[figure]; }
  double last_median(size_t figure) const { return last_medians_[figure]; }
  const Bills& bills() const { return bills_; }

 private:
  Client client_;
  int64_t sequence_ = 0;
  Figures all_, medians_;
  std::array<double, kFigures> last_medians_{};
  Bills bills_;
};

void print_heading(const char* what) {
  fmt::print("\n{:<22} | {:^26} | {:^26} | {:^26}\n", what, "direct", "through", "added");
}

void print_tables(const Side& direct, const Side& through, const Figures& added) {
  print_heading("microseconds");
  fmt::print("{:<22} | {:>8} {:>8} {:>8} | {:>8} {:>8} {:>8} | {:>26}\n", "all samples", "p50",
             "p99", "max", "p50", "p99", "max", "difference of p50");
  for (size_t i = 0; i < kFigures; ++i) {
    const Samples &a = direct.all(i), &b = through.all(i);
    fmt::print("{:<22} | {:8.0f} {:8.0f} {:8.0f} | {:8.0f} {:8.0f} {:8.0f} | {:26.0f}\n", kNames[i],
               a.median(), a.percentile(99), a.max(), b.median(), b.percentile(99), b.max(),
               b.median() - a.median());
  }
  print_heading("medians of the rounds");
  fmt::print("{:<22} | {:>8} {:>17} | {:>8} {:>17} | {:>8} {:>17}\n", "", "median", "min..max",
             "median", "min..max", "median", "min..max");
  for (size_t i = 0; i < kFigures; ++i) {
    fmt::print("{:<22}", kNames[i]);
    for (const Samples* s : {&direct.medians(i), &through.medians(i), &added[i]}) {
      fmt::print(" | {:8.0f} {:>17}", s->median(),
                 fmt::format("{:.0f}..{:.0f}", s->min(), s->max()));
    }
    fmt::print("\n");
  }
}

void run(const std::string& binary, size_t rounds_wanted) {
  fmt::print("added_latency: {}\ncommit {}\n", describe_machine(), describe_commit());
  std::fflush(stdout);
  Backend backend({.events = kEventsPerStream, .pace = kPace});
  Proxy proxy({.binary = binary, .backend_port = backend.port()});
  Side direct(backend.port(), "none"), through(proxy.port(), proxy.token());
  direct.run(kPlainPerRound, 1, false);
  through.run(kPlainPerRound, 1, false);
  Figures added;
  size_t rounds = 0;
  const int64_t begin = monotonic_ns();
  const auto has_time = [&] {
    return monotonic_ns() - begin < std::chrono::nanoseconds(kRoundsMax).count();
  };
  for (; rounds < rounds_wanted && (rounds < kRoundsMin || has_time()); ++rounds) {
    Side& first = rounds % 2 == 0 ? direct : through;
    Side& second = rounds % 2 == 0 ? through : direct;
    first.run(kPlainPerRound, kStreamsPerRound, true);
    second.run(kPlainPerRound, kStreamsPerRound, true);
    for (size_t i = 0; i < kFigures; ++i) {
      added[i].add(through.last_median(i) - direct.last_median(i));
    }
  }
  const double seconds = static_cast<double>(monotonic_ns() - begin) / 1e9;
  proxy.stop_and_check(through.bills());
  fmt::print(
      "{} rounds in {:.0f} s, each way {} plain replies of {} B and {} streams of {} events "
      "of {} B, one every {} ms\n",
      rounds, seconds, kPlainPerRound, kPlainBodyBytes, kStreamsPerRound, kEventsPerStream,
      kEventBytes, kPace.count());
  print_tables(direct, through, added);
  fmt::print("\n{} requests through the proxy, {} bills, each count right\n",
             through.bills().size(), through.bills().size());
}

}  // namespace
}  // namespace llmproxy::bench

int main(int argc, char** argv) {
  using namespace llmproxy::bench;
  size_t rounds = kRoundsDefault;
  if (argc == 3) {
    const std::string_view text = argv[2];
    std::from_chars(text.data(), text.data() + text.size(), rounds);
  }
  if (argc < 2 || argc > 3 || rounds < kRoundsMin) {
    fmt::print(stderr, "usage: added_latency BINARY [ROUNDS], at least {} rounds\n", kRoundsMin);
    return 64;
  }
  try {
    run(argv[1], rounds);
  } catch (const std::exception& failure) {
    fmt::print(stderr, "added_latency: {}\n", failure.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
