// The recycling allocator of coroutine frames. Per thread, so there is no lock; a frame freed on
// another thread than its own simply changes lists. AddressSanitizer is told of those in the lists:
// whoever resumes one of them is caught.
#include "net/task.h"

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <array>

namespace llmproxy::net {
namespace {

constexpr size_t kGrain = 64;
constexpr size_t kClasses = kFrameBytesMax / kGrain;

struct FreeFrame {
  FreeFrame* next;
};

struct FrameLists {
  std::array<FreeFrame*, kClasses> free{};
  std::array<size_t, kClasses> count{};
  std::array<size_t, kClasses> unused{};  // the least that count was since the last trim

  ~FrameLists() {
    for (FreeFrame*& first : free) {
      while (first != nullptr) ::operator delete(take_first(first));
    }
  }

  // `size`: what is used of it.
  static void* take_first(FreeFrame*& first, size_t size = sizeof(FreeFrame)) {
    ASAN_UNPOISON_MEMORY_REGION(first, size);
    return std::exchange(first, first->next);
  }
};

thread_local FrameLists lists;

constexpr size_t size_class(size_t size) {
  return (size + kGrain - 1) / kGrain - 1;
}

}  // namespace

void* allocate_frame(size_t size) {
  const size_t index = size_class(size);
  if (index >= kClasses) return ::operator new(size);
  if (lists.free[index] != nullptr) {
    lists.unused[index] = std::min(lists.unused[index], --lists.count[index]);
    return FrameLists::take_first(lists.free[index], size);
  }
  return ::operator new((index + 1) * kGrain);
}

void free_frame(void* memory, size_t size) noexcept {
  const size_t index = size_class(size);
  if (index >= kClasses || lists.count[index] >= kFramesKeptMax) return ::operator delete(memory);
  auto* frame = static_cast<FreeFrame*>(memory);
  frame->next = lists.free[index];
  lists.free[index] = frame;
  ++lists.count[index];
  ASAN_POISON_MEMORY_REGION(memory, (index + 1) * kGrain);
}

size_t trim_frames() {
  size_t bytes = 0;
  for (size_t i = 0; i < kClasses; ++i) {
    bytes += lists.unused[i] * (i + 1) * kGrain;
    lists.count[i] -= lists.unused[i];
    for (; lists.unused[i] > 0; --lists.unused[i]) {
      ::operator delete(FrameLists::take_first(lists.free[i]));
    }
    lists.unused[i] = lists.count[i];
  }
  return bytes;
}

}  // namespace llmproxy::net
