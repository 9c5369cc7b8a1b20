// A queue of jobs and the threads that empty it.
#include "net/worker.h"

#include <exception>
#include <utility>

#include "base/thread_name.h"
#include "net/completion.h"

namespace llmproxy::net {

struct Worker::Job {
  Job(Loop& loop, std::function<void()> its_body) : body(std::move(its_body)), done(loop) {}
  std::function<void()> body;
  std::exception_ptr exception;
  Completion<bool> done;
};

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
    Job& job = *jobs_.front();
    jobs_.pop_front();
    lock.unlock();
    try {
      job.body();
    } catch (...) {
      job.exception = std::current_exception();
    }
    job.done.complete(true);  // ends its life
    lock.lock();
  }
}

Task<bool> Worker::run(Loop& loop, std::function<void()> body) {
  Job job(loop, std::move(body));
  {
    const std::lock_guard lock(mutex_);
    if (jobs_.size() >= kQueueMax) co_return false;
    jobs_.push_back(&job);
  }
  queued_.notify_one();
  co_await job.done;
  if (job.exception) std::rethrow_exception(job.exception);
  co_return true;
}

}  // namespace llmproxy::net
