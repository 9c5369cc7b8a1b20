// Closed-loop load on one way to the backend, and what it cost whom it went through.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "figures.h"
#include "proxy.h"
#include "wire.h"

namespace llmproxy::bench {

constexpr size_t kEventsPerStream = 64;
constexpr std::chrono::milliseconds kRun{800};
constexpr std::chrono::seconds kDeliveryMax{60};  // of the last bill of a run
constexpr std::chrono::milliseconds kBetweenLooks{20};
constexpr int kMeasuredCore = 0, kLoadCore = 1;

// Plain replies, or streams that the backend writes in one burst.
enum Lane { kJson, kBurst, kLanes };

// Connections that each send the next request as soon as they have the reply.
class Load {
 public:
  Load(uint16_t port, const std::string& token, Lane lane, size_t connections);

  // For kRun. Requests answered, those that were under way at the end of the time included. Notes
  // them in `bills`.
  int64_t run(int64_t& sequence, Bills& bills);

  // Microseconds from request to whole reply, of the last run.
  const Samples& latencies() const { return latencies_; }

 private:
  struct Connection {
    Fd fd;
    ReplyReader reply;
    int64_t sent_ns = 0;
    bool is_waiting = false;
  };

  void send_next(Connection& connection, int64_t& sequence, Bills& bills);
  void read_some(Connection& connection);
  void check(const ReplyReader& reply) const;

  const std::string token_;
  const Lane lane_;
  Fd epoll_;
  std::vector<Connection> connections_;
  Samples latencies_;
};

struct LoadFigures {
  Samples rate, cpu_us, loop_us, busy, ratio, latency_us;
};

// One way to the backend: what is on it, and the load for each lane.
struct Way {
  std::string name{};
  pid_t pid = 0;  // 0: nothing to measure
  std::array<std::unique_ptr<Load>, kLanes> loads{};
  std::array<LoadFigures, kLanes> figures{};
  int64_t sequence = 0;
  Bills bills{};
};

// A run ends when its last bill is in the database, so nothing is put off past the clock.
void await_bills(const Proxy& proxy, size_t expected);

// One run of `load`. `await_end` is called before the CPU is read. CPU of one request in
// microseconds; 0 where there is nothing to measure, and in runs that do not count.
double measure(Way& way, Load& load, LoadFigures& figures, bool is_counted,
               const std::function<void()>& await_end);

// "median (min..max)"
std::string spread(const Samples& samples, int digits);

}  // namespace llmproxy::bench
