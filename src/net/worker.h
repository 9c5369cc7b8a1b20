// Work that would hold up a loop for long, such as a large text to be parsed, on threads of its
// own. Who asked for it waits; the loop's others go on.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "net/task.h"

namespace llmproxy::net {

class Loop;

class Worker {
 public:
  static constexpr size_t kThreads = 2;
  static constexpr size_t kQueueMax = 256;  // jobs waiting; beyond it they are refused

  Worker();
  ~Worker();  // nobody may be waiting
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Runs `body` on one of the threads. What it throws passes to who waits. False: too many wait, it
  // was not run. Not to be given up: `body` may refer to what who waits has.
  Task<bool> run(Loop& loop, std::function<void()> body);

  // The same, and nobody waits: `body` refers to nothing that may end before it, and throws
  // nothing.
  bool start(std::function<void()> body);

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable queued_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_; throw nothing
  bool is_stopping_ = false;                // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace llmproxy::net
