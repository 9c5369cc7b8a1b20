// For the tests: allocations counted, and made to fail. A program that uses it has one file that
// includes base/test_new.h.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace llmproxy {

// Calls of operator new on this thread.
extern thread_local size_t allocations;

// The next call, on any thread, for a number of bytes within the bounds fails, but for the first
// `passed` of them.
struct AllocationFault {
  std::atomic<size_t> bytes_min{0};  // 0: none fails
  std::atomic<size_t> bytes_max{0};
  std::atomic<int> passed{0};

  void arm(size_t min, int its_passed = 0, size_t max = SIZE_MAX) {
    passed = its_passed;
    bytes_max = max;
    bytes_min = min;
  }
  void disarm() { bytes_min = 0; }
  bool is_armed() const { return bytes_min > 0; }
  bool strikes(size_t size) {
    if (!is_armed() || size < bytes_min || size > bytes_max) return false;
    if (passed.fetch_sub(1) > 0) return false;
    disarm();
    return true;
  }
};
extern AllocationFault allocation_fault;

}  // namespace llmproxy
