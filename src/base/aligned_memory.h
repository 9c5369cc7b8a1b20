// Memory that O_DIRECT takes with every block size. Grows to what was asked, never shrinks; what it
// held is gone when it grows.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

namespace llmproxy {

class AlignedMemory {
 public:
  static constexpr size_t kAlignment = 65'536;  // every block size divides it

  AlignedMemory() = default;
  AlignedMemory(const AlignedMemory&) = delete;
  AlignedMemory& operator=(const AlignedMemory&) = delete;
  ~AlignedMemory() { std::free(data_); }

  char* at_least(size_t size) {
    if (size > size_) {
      std::free(std::exchange(data_, nullptr));
      size_ = 0;
      const size_t rounded = (size + kAlignment - 1) / kAlignment * kAlignment;
      data_ = static_cast<char*>(std::aligned_alloc(kAlignment, rounded));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = rounded;
    }
    return data_;
  }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace llmproxy
