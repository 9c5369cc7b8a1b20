// For the tests: allocations counted, and made to fail. A program that uses it has one file that
// includes base/test_new.h.
#pragma once

#include <atomic>
#include <cstddef>

namespace llmproxy {

// Calls of operator new on this thread.
extern thread_local size_t allocations;

// The next call, on any thread, for at least `bytes` fails, but for the first `passed` of them.
struct AllocationFault {
  std::atomic<size_t> bytes{0};  // 0: none fails
  std::atomic<int> passed{0};

  void arm(size_t its_bytes, int its_passed = 0) {
    passed = its_passed;
    bytes = its_bytes;
  }
  bool strikes(size_t size) {
    if (bytes == 0 || size < bytes || passed.fetch_sub(1) > 0) return false;
    bytes = 0;
    return true;
  }
};
extern AllocationFault allocation_fault;

}  // namespace llmproxy
