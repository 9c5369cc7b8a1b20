// How much all bodies and replies that are held in memory may take together, over all servers. What
// fits a connection's pooled block is not counted.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/large_blocks.h"
#include "net/buffer.h"

namespace llmproxy {

class MemoryBudget {
 public:
  // Requests may fill only this part of it: replies are of work that was done, and must find room.
  static constexpr size_t kRequestsPart = 2;  // one half

  enum class Use : uint8_t { kRequest, kReply };

  // From now on, what is given back is the system's again, and no reserve of the allocator's.
  explicit MemoryBudget(size_t limit) : limit_(limit) { map_large_blocks(); }
  void set_limit(size_t limit) { limit_.store(limit, std::memory_order_relaxed); }
  bool take(size_t n, Use use) {
    const size_t limit = limit_.load(std::memory_order_relaxed);
    const size_t part = use == Use::kRequest ? limit / kRequestsPart : limit;
    if (used_.fetch_add(n, std::memory_order_relaxed) + n <= part) return true;
    give(n);
    return false;
  }
  void give(size_t n) { used_.fetch_sub(n, std::memory_order_relaxed); }

 private:
  std::atomic<size_t> limit_;
  std::atomic<size_t> used_{0};
};

// What `n` bytes take beside the block that every connection may have.
constexpr size_t beyond_block(size_t n) {
  return n > net::kBlockBytes ? n - net::kBlockBytes : 0;
}

// One request's part of it; given back at the end of its life.
class MemoryShare {
 public:
  MemoryShare(MemoryBudget& budget, MemoryBudget::Use use) : budget_(budget), use_(use) {}
  ~MemoryShare() { release(); }
  MemoryShare(const MemoryShare&) = delete;
  MemoryShare& operator=(const MemoryShare&) = delete;

  // Raises the share to `total` bytes; false, and unchanged, when there is no room.
  bool raise_to(size_t total) {
    if (total <= held_) return true;
    if (!budget_.take(total - held_, use_)) return false;
    held_ = total;
    return true;
  }
  void release() {
    budget_.give(held_);
    held_ = 0;
  }

 private:
  MemoryBudget& budget_;
  const MemoryBudget::Use use_;
  size_t held_ = 0;
};

}  // namespace llmproxy
