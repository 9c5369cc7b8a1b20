// Memory of what lives as long as a connection. Pieces of one size lie side by side on pages that
// hold nothing else: memory of requests, which comes and goes in thousands, goes back to the system
// only where no such piece lies between. A slab of pages goes back when its last piece is freed;
// one empty slab of each size is kept.
//
// Per thread, so there is no lock: a piece is freed by the thread that allocated it, or by any
// other once that one has ended.
#pragma once

#include <cstddef>

namespace llmproxy::net {

constexpr size_t kSlabBytes = size_t{64} << 10;
constexpr size_t kLastingBytesMax = 2048;  // of one piece; larger ones are ordinary memory

void* allocate_lasting(size_t size);  // throws std::bad_alloc
void free_lasting(void* memory, size_t size) noexcept;

// For the nodes of a container, one at a time.
template <class T>
struct LastingAllocator {
  using value_type = T;

  LastingAllocator() = default;
  template <class U>
  LastingAllocator(const LastingAllocator<U>&) {}  // NOLINT: implicit, as containers want it
  T* allocate(size_t count) { return static_cast<T*>(allocate_lasting(count * sizeof(T))); }
  void deallocate(T* memory, size_t count) noexcept { free_lasting(memory, count * sizeof(T)); }
  bool operator==(const LastingAllocator&) const { return true; }
};

}  // namespace llmproxy::net
