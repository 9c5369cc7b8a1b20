// Task<T>: a coroutine that computes a T on one event loop. It starts when awaited, is awaited
// once, and resumes who waits for it when it is done. Destroying a Task destroys its frame, and
// with it every object in it; so a coroutine owns its sockets. An exception inside passes to who
// waits.
//
// Frames come from a per-thread recycling allocator: in the steady state no request allocates them.
// Rule for authors: no lambda coroutines with captures, no temporaries with destructors as
// arguments of an awaited call (GCC bugs 95111 and 107288), and no conditional operator as what is
// awaited (GCC 12 destroys the chosen frame twice); parameters of coroutines are values, or
// references to what outlives the await.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <new>
#include <optional>
#include <utility>
#include <variant>

#include "base/check.h"

namespace llmproxy::net {

// Blocks of up to kFrameBytesMax are kept for the next frame of their size, at most kFramesKeptMax
// each.
constexpr size_t kFrameBytesMax = 8192;
constexpr size_t kFramesKeptMax = 4096;
void* allocate_frame(size_t size);
void free_frame(void* frame, size_t size) noexcept;
// Frees those that this thread has not needed since the last call. How many bytes they had.
size_t trim_frames();

template <class T>
class Task;

namespace detail {

struct PromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();
  std::exception_ptr exception;

  static void* operator new(size_t size) { return allocate_frame(size); }
  static void operator delete(void* frame, size_t size) noexcept { free_frame(frame, size); }

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

template <class T>
struct Promise : PromiseBase {
  std::optional<T> value;

  Task<T> get_return_object() noexcept;
  template <class U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T take() {
    if (exception) std::rethrow_exception(exception);
    return std::move(*value);
  }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object() noexcept;
  void return_void() const noexcept {}
  void take() const {
    if (exception) std::rethrow_exception(exception);
  }
};

}  // namespace detail

template <class T = void>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::Promise<T>;
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

template <class T>
Task<T> Promise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}

// A coroutine nobody waits for: it starts at once and frees itself at its end.
struct Detached {
  struct promise_type {
    static void* operator new(size_t size) { return allocate_frame(size); }
    static void operator delete(void* frame, size_t size) noexcept { free_frame(frame, size); }
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };
};

inline Detached run_detached(Task<void> task) {
  co_await task;
}

}  // namespace detail

// Starts `task` now, on the calling thread, and lets it run to its end. It must not throw, and it
// must end before its loop does.
inline void spawn(Task<void> task) {
  detail::run_detached(std::move(task));
}

}  // namespace llmproxy::net
