// Slabs: aligned to their size, so that a piece finds its slab by its address.
#include "net/lasting.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <utility>

namespace llmproxy::net {
namespace {

constexpr size_t kGrain = 16;
constexpr size_t kSizes = kLastingBytesMax / kGrain;

struct Piece {
  Piece* next;
};

struct alignas(kGrain) Slab {
  Slab(size_t its_index, size_t piece_bytes)
      : index(its_index), capacity((kSlabBytes - sizeof(Slab)) / piece_bytes) {}

  const size_t index;     // of its size
  const size_t capacity;  // in pieces
  size_t used = 0;
  Piece* free = nullptr;
  char* fresh = reinterpret_cast<char*>(this + 1);  // from here on nothing was ever used
  Slab* next = nullptr;                             // of those with room
  Slab* previous = nullptr;
};

// Twice as much is mapped, and what lies outside the aligned part given back.
void* map_slab() {
  void* const span =
      mmap(nullptr, 2 * kSlabBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (span == MAP_FAILED) throw std::bad_alloc();
  char* const begin = static_cast<char*>(span);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kSlabBytes;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + kSlabBytes, kSlabBytes - before);
  return begin + before;
}

void unmap_slab(Slab& slab) {
  ASAN_UNPOISON_MEMORY_REGION(&slab, kSlabBytes);
  munmap(&slab, kSlabBytes);
}

// Of one thread.
class Slabs {
 public:
  // What is still used is freed by other threads.
  ~Slabs() {
    for (Slab* const& slab : with_room_) {
      while (slab != nullptr) {
        Slab& first = *slab;
        unlink(first);
        if (first.used == 0) unmap_slab(first);
      }
    }
  }

  void* take(size_t index, size_t size) {
    Slab& slab = with_room_[index] != nullptr ? *with_room_[index] : add(index);
    if (++slab.used == slab.capacity) unlink(slab);
    void* const memory = slab.free != nullptr ? static_cast<void*>(slab.free) : slab.fresh;
    ASAN_UNPOISON_MEMORY_REGION(memory, std::max(size, sizeof(Piece)));
    if (slab.free != nullptr) {
      slab.free = slab.free->next;
    } else {
      slab.fresh += (index + 1) * kGrain;
    }
    return memory;
  }

  void give(Slab& slab, void* memory) {
    auto* const piece = static_cast<Piece*>(memory);
    piece->next = std::exchange(slab.free, piece);
    ASAN_POISON_MEMORY_REGION(memory, (slab.index + 1) * kGrain);
    if (slab.used-- == slab.capacity) link(slab);
    if (slab.used > 0 || (with_room_[slab.index] == &slab && slab.next == nullptr)) return;
    unlink(slab);
    unmap_slab(slab);
  }

 private:
  Slab& add(size_t index) {
    Slab& slab = *new (map_slab()) Slab(index, (index + 1) * kGrain);
    ASAN_POISON_MEMORY_REGION(slab.fresh, kSlabBytes - sizeof(Slab));
    link(slab);
    return slab;
  }

  void link(Slab& slab) {
    slab.next = std::exchange(with_room_[slab.index], &slab);
    if (slab.next != nullptr) slab.next->previous = &slab;
  }

  // Nothing happens to one that is in no list, as those of a thread that has ended.
  void unlink(Slab& slab) {
    if (with_room_[slab.index] == &slab) with_room_[slab.index] = slab.next;
    if (slab.previous != nullptr) slab.previous->next = slab.next;
    if (slab.next != nullptr) slab.next->previous = slab.previous;
    slab.next = slab.previous = nullptr;
  }

  std::array<Slab*, kSizes> with_room_{};
};

thread_local Slabs slabs;

constexpr size_t size_index(size_t size) {
  return (size + kGrain - 1) / kGrain - 1;
}

}  // namespace

void* allocate_lasting(size_t size) {
  const size_t index = size_index(size);
  return index < kSizes ? slabs.take(index, size) : ::operator new(size);
}

void free_lasting(void* memory, size_t size) noexcept {
  if (size_index(size) >= kSizes) return ::operator delete(memory);
  const auto address = reinterpret_cast<uintptr_t>(memory);
  slabs.give(*reinterpret_cast<Slab*>(address - address % kSlabBytes), memory);
}

}  // namespace llmproxy::net
