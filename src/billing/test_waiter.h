// A Waiter that a test waits on. For tests only.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include "billing/settlement.h"

namespace llmproxy {

class TestWaiter final : public Waiter {
 public:
  void done(bool is_durable) noexcept override {
    const std::lock_guard lock(mutex_);
    is_durable_ = is_durable;
    changed_.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_durable_.has_value(); });
    return *is_durable_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<bool> is_durable_;
};

}  // namespace llmproxy
