// How much all bodies and replies that are held in memory may take together, over all servers.
#pragma once

#include <atomic>
#include <cstddef>

namespace llmproxy {

class MemoryBudget {
 public:
  explicit MemoryBudget(size_t limit) : limit_(limit) {}
  void set_limit(size_t limit) { limit_.store(limit, std::memory_order_relaxed); }
  bool take(size_t n) {
    if (used_.fetch_add(n, std::memory_order_relaxed) + n <=
        limit_.load(std::memory_order_relaxed)) {
      return true;
    }
    give(n);
    return false;
  }
  void give(size_t n) { used_.fetch_sub(n, std::memory_order_relaxed); }

 private:
  std::atomic<size_t> limit_;
  std::atomic<size_t> used_{0};
};

// One request's part of it; given back at the end of its life.
class MemoryShare {
 public:
  explicit MemoryShare(MemoryBudget& budget) : budget_(budget) {}
  ~MemoryShare() { release(); }
  MemoryShare(const MemoryShare&) = delete;
  MemoryShare& operator=(const MemoryShare&) = delete;

  // Raises the share to `total` bytes; false, and unchanged, when there is no room.
  bool raise_to(size_t total) {
    if (total <= held_) return true;
    if (!budget_.take(total - held_)) return false;
    held_ = total;
    return true;
  }
  void release() {
    budget_.give(held_);
    held_ = 0;
  }

 private:
  MemoryBudget& budget_;
  size_t held_ = 0;
};

}  // namespace llmproxy
