// Task<T>: a coroutine that computes a T on one event loop. It starts when awaited, is awaited
// once, and resumes who waits for it when it is done. Destroying a Task destroys its frame, and
// with it every object in it; so a coroutine owns its sockets. An exception inside passes to who
// waits.
//
// Frames come from a per-thread recycling allocator: in the steady state no request allocates them.
// Those that wait as long as their connection is open are LastingTasks', and lie on pages of their
// own (net/lasting).
// Rule for authors: no lambda coroutines with captures, no temporaries with destructors as
// arguments of an awaited call (GCC bugs 95111 and 107288), and no conditional operator as what is
// awaited (GCC 12 destroys the chosen frame twice); parameters of coroutines are values, or
// references to what outlives the await.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <utility>
#include <variant>

#include "base/check.h"
#include "net/lasting.h"

namespace llmproxy::net {

// Blocks of up to kFrameBytesMax are kept for the next frame of their size, at most kFramesKeptMax
// each.
constexpr size_t kFrameBytesMax = 8192;
constexpr size_t kFramesKeptMax = 4096;
void* allocate_frame(size_t size);
void free_frame(void* frame, size_t size) noexcept;
// Frees those that this thread has not needed since the last call. How many bytes they had.
size_t trim_frames();

enum class Frames : uint8_t {  // where a coroutine's frame lies
  kRecycled,
  kLasting,  // allocate_lasting()
};

template <class T = void, Frames kFrames = Frames::kRecycled>
class Task;
template <class T = void>
using LastingTask = Task<T, Frames::kLasting>;

namespace detail {

template <Frames>
struct FrameMemory {
  static void* operator new(size_t size) { return allocate_frame(size); }
  static void operator delete(void* frame, size_t size) noexcept { free_frame(frame, size); }
};
template <>
struct FrameMemory<Frames::kLasting> {
  static void* operator new(size_t size) { return allocate_lasting(size); }
  static void operator delete(void* frame, size_t size) noexcept { free_lasting(frame, size); }
};

struct PromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();
  std::exception_ptr exception;

  struct Final {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> done) noexcept {
      return done.promise().continuation;
    }
    void await_resume() const noexcept {}
  };

  std::suspend_always initial_suspend() const noexcept { return {}; }
  Final final_suspend() const noexcept { return {}; }
  void unhandled_exception() noexcept { exception = std::current_exception(); }
};

template <class T, Frames kFrames>
struct Promise : PromiseBase, FrameMemory<kFrames> {
  std::optional<T> value;

  Task<T, kFrames> get_return_object() noexcept;
  template <class U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T take() {
    if (exception) std::rethrow_exception(exception);
    return std::move(*value);
  }
};

template <Frames kFrames>
struct Promise<void, kFrames> : PromiseBase, FrameMemory<kFrames> {
  Task<void, kFrames> get_return_object() noexcept;
  void return_void() const noexcept {}
  void take() const {
    if (exception) std::rethrow_exception(exception);
  }
};

}  // namespace detail

template <class T, Frames kFrames>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::Promise<T, kFrames>;
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) noexcept : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiting) noexcept {
    handle_.promise().continuation = waiting;
    return handle_;
  }
  T await_resume() { return handle_.promise().take(); }

 private:
  Handle handle_;
};

// What a step that seldom waits returns: its value, which costs no frame, or the Task that will
// have it. Awaited once, like a Task.
template <class T>
class [[nodiscard]] Step {
 public:
  template <class U>
  requires std::convertible_to<U, T> Step(U&& value)
      : value_(std::in_place_index<0>, std::forward<U>(value)) {}          // NOLINT: implicit
  Step(Task<T> task) : value_(std::in_place_index<1>, std::move(task)) {}  // NOLINT

  bool await_ready() const noexcept { return value_.index() == 0; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiting) noexcept {
    return std::get_if<1>(&value_)->await_suspend(waiting);
  }
  T await_resume() {
    return await_ready() ? std::move(*std::get_if<0>(&value_))
                         : std::get_if<1>(&value_)->await_resume();
  }

 private:
  std::variant<T, Task<T>> value_;
};

namespace detail {

template <class T, Frames kFrames>
Task<T, kFrames> Promise<T, kFrames>::get_return_object() noexcept {
  return Task<T, kFrames>(std::coroutine_handle<Promise>::from_promise(*this));
}
template <Frames kFrames>
Task<void, kFrames> Promise<void, kFrames>::get_return_object() noexcept {
  return Task<void, kFrames>(std::coroutine_handle<Promise>::from_promise(*this));
}

// A coroutine nobody waits for: it starts at once and frees itself at its end.
template <Frames kFrames>
struct Detached {
  struct promise_type : FrameMemory<kFrames> {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };
};

template <Frames kFrames>
Detached<kFrames> run_detached(Task<void, kFrames> task) {
  co_await task;
}

}  // namespace detail

// Starts `task` now, on the calling thread, and lets it run to its end. It must not throw, and it
// must end before its loop does.
template <Frames kFrames>
void spawn(Task<void, kFrames> task) {
  detail::run_detached(std::move(task));
}

}  // namespace llmproxy::net
