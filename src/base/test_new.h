// For the tests: replaces operator new of the program by one that counts and fails as
// base/test_allocations.h says. Included by one file of the program.
#pragma once

#include <cstdlib>
#include <new>

#include "base/test_allocations.h"

namespace llmproxy {
thread_local size_t allocations = 0;
AllocationFault allocation_fault;
}  // namespace llmproxy

void* operator new(size_t size) {
  ++llmproxy::allocations;
  if (llmproxy::allocation_fault.strikes(size)) throw std::bad_alloc();
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
// Libraries ask for this one too, and give back by the operators below.
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  ++llmproxy::allocations;
  return llmproxy::allocation_fault.strikes(size) ? nullptr : std::malloc(size > 0 ? size : 1);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
