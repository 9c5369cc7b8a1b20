// How the C library keeps memory that was freed, and when it gives it back.
#pragma once

#include <malloc.h>

#include <cstddef>

namespace llmproxy {

constexpr size_t kLargeBlock = size_t{1} << 20;

// Blocks of this size are mapped one by one from now on, so that freeing them gives them back to
// the system: glibc otherwise keeps up to 64 MiB a thread as soon as it has seen one freed. Before
// there are threads.
inline void map_large_blocks() {
  mallopt(M_MMAP_THRESHOLD, kLargeBlock);  // NOLINT(concurrency-mt-unsafe): called once, first
}

// Freed memory that lies between used one, too, goes back to the system. May take milliseconds.
inline void give_back_freed_memory() {
  malloc_trim(0);
}

}  // namespace llmproxy
