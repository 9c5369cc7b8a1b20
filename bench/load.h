// Load on one way to the backend, in a closed or an open loop, and what it cost whom it went
// through.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "figures.h"
#include "proxy.h"
#include "wire.h"

namespace llmproxy::bench {

// With BENCH_SHORT=1 in the environment times and counts are an eighth: a run that only shows that
// all of it works.
bool is_short();
template <class Amount>
Amount usual_or_short(Amount usual) {
  constexpr int kShorter = 8;
  return is_short() ? usual / kShorter : usual;
}

inline const std::chrono::milliseconds kRun = usual_or_short(std::chrono::milliseconds(800));
constexpr std::chrono::seconds kDeliveryMax{60};  // of the last bill of a run
constexpr std::chrono::milliseconds kBetweenLooks{20};

// Requests that are due at times of their own, whatever the replies do: nanoseconds after the
// beginning, in their order.
struct Schedule {
  std::vector<int64_t> due_ns{};
  int64_t counted_from_ns = 0;  // those due before it open the connections and have no latency
  size_t connections_max = 0;   // a request that finds none free waits, and its wait counts
};

// Connections that each send the next request as soon as they have the reply.
class Load {
 public:
  // Each request has the next of the tokens; a run lasts `length`. An open loop adds connections as
  // it needs them.
  Load(uint16_t port, std::vector<std::string> tokens, const Ask& ask, size_t connections,
       std::chrono::milliseconds length = kRun);

  // Requests answered, those that were under way at the end of the time included. Notes
  // them in `bills`.
  int64_t run(int64_t& sequence, Bills& bills);

  // The same in steps: one request on each connection; what comes, until a monotonic time or the
  // last reply; the replies that are left.
  void begin(int64_t& sequence, Bills& bills);
  void serve_until(int64_t end_ns);
  void finish();

  // The open loop. Nanoseconds from its beginning to the last reply.
  int64_t run_open(const Schedule& schedule, int64_t& sequence, Bills& bills);

  // Microseconds from request to whole reply, since the last begin; in an open loop from when the
  // request was due.
  const Samples& latencies() const { return latencies_; }
  // Of the open loop: microseconds from when a request was due, and a connection could be had, to
  // when it was sent. What the load itself is late.
  const Samples& lags() const { return lags_; }

 private:
  struct Connection {
    Fd fd;
    ReplyReader reply;
    int64_t sent_ns = 0;  // latency counts from here
    bool is_waiting = false;
    bool is_counted = true;
  };

  void open_connection();
  void send_next(Connection& connection, int64_t& sequence, Bills& bills);
  void read_some(Connection& connection);
  template <class OnReply>
  void serve(int64_t end_ns, OnReply on_reply);
  template <class OnReply>
  bool serve_once(int64_t wait_ns, OnReply on_reply);
  void check(const ReplyReader& reply) const;

  const std::vector<std::string> tokens_;
  const uint16_t port_;
  const Ask ask_;
  const std::chrono::milliseconds length_;
  Fd epoll_;
  std::deque<Connection> connections_;
  size_t waiting_ = 0;  // of them
  Samples latencies_, lags_;
};

// CPU of a process and of all below it, in nanoseconds, by what its threads are named for.
struct CpuTimes {
  int64_t data_ns = 0;      // all that is not shipping
  int64_t shipping_ns = 0;  // the ledger's reader and shipper: events into the database
  int64_t busiest_ns = 0;   // the thread that used most: the event loop

  int64_t all_ns() const { return data_ns + shipping_ns; }
};
CpuTimes cpu_times(pid_t pid);

struct LoadFigures {
  Samples rate, latency_us, busy;
  Samples cpu_us, data_us, shipping_us, loop_us;  // of one request
};

// One way to the backend, and what was sent on it.
struct Way {
  std::string name{};
  pid_t pid = 0;  // 0: nothing to measure
  int64_t sequence = 0;
  Bills bills{};
};

// A run ends when its last bill is in the database, so nothing is put off past the clock.
void await_bills(const Proxy& proxy, size_t expected);

// One run of `load`. `await_end` is called before the CPU is read.
void measure(Way& way, Load& load, LoadFigures& figures, bool is_counted,
             const std::function<void()>& await_end);

}  // namespace llmproxy::bench
