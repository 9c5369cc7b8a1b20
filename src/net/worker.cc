// A queue of jobs and the threads that empty it.
#include "net/worker.h"

#include <exception>
#include <utility>

#include "base/thread_name.h"
#include "net/completion.h"

namespace llmproxy::net {

namespace {

// On the frame of who waits.
struct Job {
  Job(Loop& loop, std::function<void()> its_body) : body(std::move(its_body)), done(loop) {}
  void run() {
    try {
      body();
    } catch (...) {
      exception = std::current_exception();
    }
    done.complete(true);  // ends its life
  }

  std::function<void()> body;
  std::exception_ptr exception;
  Completion<bool> done;
};

}  // namespace

Worker::Worker() {
  for (size_t i = 0; i < kThreads; ++i) {
    threads_.emplace_back([this] {
      name_thread("body-reader");
      serve();
    });
  }
}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  queued_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Worker::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    queued_.wait(lock, [&] { return is_stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

bool Worker::start(std::function<void()> body) {
  {
    const std::lock_guard lock(mutex_);
    if (jobs_.size() >= kQueueMax) return false;
    jobs_.push_back(std::move(body));
  }
  queued_.notify_one();
  return true;
}

Task<bool> Worker::run(Loop& loop, std::function<void()> body) {
  Job job(loop, std::move(body));
  if (!start([&job] { job.run(); })) co_return false;
  co_await job.done;
  if (job.exception) std::rethrow_exception(job.exception);
  co_return true;
}

}  // namespace llmproxy::net
