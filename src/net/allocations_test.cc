// Replaces operator new of the whole test program by one that counts.
#include <cstdlib>
#include <new>

#include "net/test_loop.h"

namespace llmproxy::net {
thread_local size_t allocations = 0;
}

void* operator new(size_t size) {
  ++llmproxy::net::allocations;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
