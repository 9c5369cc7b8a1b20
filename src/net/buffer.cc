// Blocks and the buffers made of them.
#include "net/buffer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace llmproxy::net {

std::unique_ptr<char[]> BlockPool::take() {
  if (free_.empty()) return std::make_unique_for_overwrite<char[]>(kBlockBytes);
  auto block = std::move(free_.back());
  free_.pop_back();
  unused_ = std::min(unused_, free_.size());
  return block;
}

size_t BlockPool::trim() {
  const size_t trimmed = std::exchange(unused_, free_.size() - unused_);
  free_.resize(free_.size() - trimmed);
  return trimmed * kBlockBytes;
}

void BlockPool::give(std::unique_ptr<char[]> block) {
  if (free_.size() < kBlocksKeptMax) free_.push_back(std::move(block));
}

bool Buffer::make_room(size_t limit) {
  if (memory_ == nullptr) {
    memory_ = pool_.take();
    capacity_ = kBlockBytes;
    return true;
  }
  if (begin_ > 0) {
    std::memmove(memory_.get(), memory_.get() + begin_, size());
    end_ -= std::exchange(begin_, 0);
    return true;
  }
  if (room() > 0) return true;
  if (capacity_ >= limit) return false;
  move_to(std::min(capacity_ * 2, limit));
  return true;
}

void Buffer::move_to(size_t capacity) {
  auto memory = std::make_unique_for_overwrite<char[]>(capacity);
  if (end_ > 0) std::memcpy(memory.get(), memory_.get(), end_);
  if (capacity_ == kBlockBytes) pool_.give(std::move(memory_));
  memory_ = std::move(memory);
  capacity_ = capacity;
}

// Room for `more` bytes behind the others.
void Buffer::extend(size_t more) {
  if (memory_ == nullptr) make_room(kBlockBytes);
  if (room() < more) move_to(std::max(capacity_ * 2, end_ + more));
}

void Buffer::consume(size_t n) {
  begin_ += n;
  if (begin_ == end_) begin_ = end_ = 0;
}

void Buffer::reset() {
  if (capacity_ == kBlockBytes) {
    pool_.give(std::move(memory_));
  } else {
    memory_.reset();
  }
  capacity_ = begin_ = end_ = 0;
}

}  // namespace llmproxy::net
