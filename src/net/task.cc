// The recycling allocator of coroutine frames. Per thread, so there is no lock; a frame freed on
// another thread than its own simply changes lists.
#include "net/task.h"

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
    for (FreeFrame* frame : free) {
      while (frame != nullptr) ::operator delete(std::exchange(frame, frame->next));
    }
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
  if (FreeFrame* frame = lists.free[index]) {
    lists.free[index] = frame->next;
    lists.unused[index] = std::min(lists.unused[index], --lists.count[index]);
    return frame;
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
}

size_t trim_frames() {
  size_t bytes = 0;
  for (size_t i = 0; i < kClasses; ++i) {
    bytes += lists.unused[i] * (i + 1) * kGrain;
    lists.count[i] -= lists.unused[i];
    for (; lists.unused[i] > 0; --lists.unused[i]) {
      ::operator delete(std::exchange(lists.free[i], lists.free[i]->next));
    }
    lists.unused[i] = lists.count[i];
  }
  return bytes;
}

}  // namespace llmproxy::net
