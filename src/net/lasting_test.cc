// Lasting memory: packed, used again, and given back to the system.
#include "net/lasting.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <list>
#include <set>
#include <thread>
#include <vector>

#include "base/sanitized.h"
#include "base/test_allocations.h"

namespace llmproxy::net {
namespace {

// Each test has a size of its own, so that none sees what another one left.

uintptr_t slab_of(const void* piece) {
  const auto address = reinterpret_cast<uintptr_t>(piece);
  return address - address % kSlabBytes;
}

bool is_mapped(uintptr_t slab) {
  std::array<unsigned char, kSlabBytes / 4096> pages;
  return mincore(reinterpret_cast<void*>(slab), kSlabBytes, pages.data()) == 0;
}

std::vector<void*> take(size_t count, size_t size) {
  std::vector<void*> pieces(count);
  for (void*& piece : pieces) piece = allocate_lasting(size);
  return pieces;
}

void give(const std::vector<void*>& pieces, size_t size) {
  for (void* piece : pieces) free_lasting(piece, size);
}

std::set<uintptr_t> slabs_of(const std::vector<void*>& pieces) {
  std::set<uintptr_t> slabs;
  for (const void* piece : pieces) slabs.insert(slab_of(piece));
  return slabs;
}

size_t count_mapped(const std::set<uintptr_t>& slabs) {
  return static_cast<size_t>(std::ranges::count_if(slabs, is_mapped));
}

// How many pieces of `size` bytes a slab can hold at most.
constexpr size_t room(size_t size) {
  return kSlabBytes / size;
}

TEST(Lasting, PiecesLieSideBySideAndDoNotOverlap) {
  constexpr size_t kSize = 200, kRounded = 208, kCount = 250;
  std::vector<void*> pieces = take(kCount, kSize);
  EXPECT_EQ(slabs_of(pieces).size(), 1u);
  for (size_t i = 0; i < kCount; ++i) std::memset(pieces[i], static_cast<int>(i), kSize);
  for (size_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(static_cast<unsigned char*>(pieces[i])[kSize - 1], i);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pieces[i]) % alignof(std::max_align_t), 0u);
  }
  std::ranges::sort(pieces);
  const auto* const first = static_cast<char*>(pieces.front());
  EXPECT_EQ(static_cast<char*>(pieces.back()), first + (kCount - 1) * kRounded);
  give(pieces, kSize);
}

TEST(Lasting, WhatWasFreedIsUsedFirst) {
  constexpr size_t kSize = 300;
  const std::vector<void*> pieces = take(2 * room(kSize), kSize);
  EXPECT_GE(slabs_of(pieces).size(), 2u);
  free_lasting(pieces[7], kSize);  // of a slab that is full
  free_lasting(pieces[5], kSize);
  EXPECT_EQ(allocate_lasting(kSize), pieces[5]);
  EXPECT_EQ(allocate_lasting(kSize), pieces[7]);
  give(pieces, kSize);
}

TEST(Lasting, SlabsGoBackWithTheirLastPieceButForOne) {
  constexpr size_t kSize = 400;
  const std::vector<void*> pieces = take(5 * room(kSize) + 1, kSize);
  const std::set<uintptr_t> slabs = slabs_of(pieces);
  EXPECT_GE(slabs.size(), 5u);
  std::vector<void*> others;
  for (void* piece : pieces) {
    if (slab_of(piece) == slab_of(pieces[0])) {
      free_lasting(piece, kSize);
    } else {
      others.push_back(piece);
    }
  }
  EXPECT_EQ(count_mapped(slabs), slabs.size() - 1);
  EXPECT_FALSE(is_mapped(slab_of(pieces[0])));
  give(others, kSize);
  EXPECT_EQ(count_mapped(slabs), 1u);
  void* const again = allocate_lasting(kSize);
  EXPECT_TRUE(slabs.contains(slab_of(again)));
  free_lasting(again, kSize);
}

TEST(Lasting, TakesNothingOfTheHeapButForLargeOnes) {
  const size_t before = allocations;
  free_lasting(allocate_lasting(1), 1);
  free_lasting(allocate_lasting(kLastingBytesMax), kLastingBytesMax);
  EXPECT_EQ(allocations - before, 0u);
  free_lasting(allocate_lasting(kLastingBytesMax + 1), kLastingBytesMax + 1);
  EXPECT_EQ(allocations - before, 1u);
}

TEST(Lasting, NodesOfAList) {
  const size_t before = allocations;
  std::list<int, LastingAllocator<int>> list{1, 2, 3};
  list.remove(2);
  EXPECT_EQ(list.back(), 3);
  EXPECT_EQ(allocations, before);
}

TEST(Lasting, OutlivesItsThread) {
  constexpr size_t kSize = 500;
  std::vector<void*> pieces;
  std::vector<void*> gone;
  std::thread([&] {
    pieces = take(3 * room(kSize) + 1, kSize);  // the last slab is not full
    gone = take(1, 2 * kSize);
    give(gone, 2 * kSize);
  }).join();
  const std::set<uintptr_t> slabs = slabs_of(pieces);
  EXPECT_EQ(count_mapped(slabs), slabs.size());
  EXPECT_FALSE(is_mapped(slab_of(gone[0])));
  for (void* piece : pieces) std::memset(piece, 1, kSize);
  give(pieces, kSize);
  EXPECT_LE(count_mapped(slabs), 1u);
  give(take(3 * room(kSize), kSize), kSize);
}

#ifdef LLMPROXY_HAS_ASAN
TEST(Lasting, FreedPiecesAreCaught) {
  auto* const piece = static_cast<volatile char*>(allocate_lasting(100));
  piece[99] = 1;
  EXPECT_DEATH(piece[100] = 1, "use-after-poison") << "past its end";
  free_lasting(const_cast<char*>(piece), 100);
  EXPECT_DEATH(piece[0] = 1, "use-after-poison");
}
#endif

}  // namespace
}  // namespace llmproxy::net
