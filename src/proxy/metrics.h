// Counters of one server, summed by whoever reads them. Written by the server's thread alone.
#pragma once

#include <atomic>
#include <cstdint>

namespace llmproxy {

class Counter {
 public:
  void add(uint64_t n = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct Counters {
  Counter connections;   // accepted
  Counter requests;      // heads read
  Counter calls;         // sent to a backend
  Counter resends;       // sent again, a kept connection having been closed meanwhile
  Counter no_reply;      // sent, but no reply head came: free
  Counter clients_gone;  // left before the end of their answer
  Counter late_figures;  // came after the answer's end and billed what was unresolved
  Counter billed, free, unresolved;
};

}  // namespace llmproxy
