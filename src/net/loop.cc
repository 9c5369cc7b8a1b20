// The epoll round: deliver events, then posted work, then timers that came due.
#include "net/loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace llmproxy::net {
namespace {

constexpr size_t kEventsPerRound = 256;

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

struct Loop::Round {
  std::array<epoll_event, kEventsPerRound> events;
  size_t count = 0;
  size_t at = 0;
};

// The eventfd that interrupts epoll_wait. Edge-triggered and never read: each write is a new edge.
class Loop::WakeUp final : public Watched {
 public:
  WakeUp() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (fd_ < 0) throw_errno("eventfd");
  }
  ~WakeUp() { close(fd_); }
  void on_events(uint32_t) override {}
  int fd() const { return fd_; }
  void signal() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
  }

 private:
  int fd_;
};

Loop::Loop() : epoll_fd_(epoll_create1(EPOLL_CLOEXEC)), now_(monotonic_now()) {
  if (epoll_fd_ < 0) throw_errno("epoll_create1");
  wake_up_ = std::make_unique<WakeUp>();
  if (!watch(wake_up_->fd(), EPOLLIN | EPOLLET, *wake_up_)) throw_errno("epoll_ctl");
}

Loop::~Loop() {
  run_posted();  // notices that nobody waits for any more free themselves
  close(epoll_fd_);
}

bool Loop::watch(int fd, uint32_t events, Watched& watched) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = &watched;
  return epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void Loop::unwatch(int fd) {
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
}

void Loop::forget(const Watched& watched) {
  if (round_ == nullptr) return;
  for (size_t i = round_->at; i < round_->count; ++i) {
    if (round_->events[i].data.ptr == &watched) round_->events[i].data.ptr = nullptr;
  }
}

void Loop::post(Posted& work) {
  Posted* head = posted_.load(std::memory_order_relaxed);
  do {
    work.next_ = head;
  } while (!posted_.compare_exchange_weak(head, &work, std::memory_order_seq_cst,
                                          std::memory_order_relaxed));
  // Whoever made the list non-empty wakes the loop; the others are seen in the same round. Either
  // we see that it waits, or it sees, before it waits, what was posted: one order for all four.
  if (head == nullptr && is_waiting_.load(std::memory_order_seq_cst)) wake_up_->signal();
}

void Loop::stop() {
  stopping_.store(true, std::memory_order_release);
  wake_up_->signal();
}

void Loop::run() {
  Round round;
  while (!stopping_.load(std::memory_order_acquire)) {
    is_waiting_.store(true, std::memory_order_seq_cst);
    const int n = epoll_wait(epoll_fd_, round.events.data(), kEventsPerRound, wait_ms());
    is_waiting_.store(false, std::memory_order_relaxed);
    if (n < 0 && errno != EINTR) throw_errno("epoll_wait");
    now_ = monotonic_now();
    ++rounds_;
    round.count = n > 0 ? static_cast<size_t>(n) : 0;
    is_busy_ = n > 0;
    round_ = &round;
    for (round.at = 0; round.at < round.count;) {
      const epoll_event event = round.events[round.at++];
      if (event.data.ptr != nullptr) static_cast<Watched*>(event.data.ptr)->on_events(event.events);
    }
    round_ = nullptr;
    run_posted();
    run_timers();
  }
  is_busy_ = false;
}

void Loop::run_posted() {
  Posted* newest = posted_.exchange(nullptr, std::memory_order_acq_rel);
  Posted* oldest = nullptr;
  while (newest != nullptr) {  // the list is last in, first out: turn it round
    Posted* next = newest->next_;
    newest->next_ = oldest;
    oldest = newest;
    newest = next;
  }
  while (oldest != nullptr) {
    Posted* next = oldest->next_;  // run() may end the life of `oldest`
    oldest->run();
    oldest = next;
  }
}

int Loop::wait_ms() const {
  if (posted_.load(std::memory_order_seq_cst) != nullptr) return 0;
  if (timers_.empty()) return -1;
  const auto left = timers_.front().when - monotonic_now();
  if (left <= left.zero()) return 0;
  const auto ms = std::chrono::ceil<Milliseconds>(left).count();
  return static_cast<int>(std::min<int64_t>(ms, 60'000));
}

void Loop::run_timers() {
  while (!timers_.empty() && timers_.front().when <= now_) {
    Timer& timer = *timers_.front().timer;
    if (timer.when_ > timers_.front().when) {  // moved later, or disarmed, since it was queued
      if (timer.when_ == kNever) {
        remove(0);
      } else {
        timers_.front().when = timer.when_;
        sift_down(0);
      }
      continue;
    }
    remove(0);
    timer.when_ = kNever;
    timer.on_deadline();
  }
}

Timer::~Timer() {
  unqueue();
}

void Timer::unqueue() {
  when_ = kNever;
  if (place_ != kNotQueued) loop_.remove(place_);
}

void Timer::arm(MonotonicTime when) {
  when_ = when;
  if (when == kNever) return;
  if (place_ == kNotQueued) return loop_.insert(*this);
  if (when < loop_.timers_[place_].when) {
    loop_.timers_[place_].when = when;
    loop_.sift_up(place_);
  }
}

void Loop::insert(Timer& timer) {
  timers_.push_back({timer.when_, &timer});
  timer.place_ = timers_.size() - 1;
  sift_up(timer.place_);
}

void Loop::remove(size_t index) {
  timers_[index].timer->place_ = Timer::kNotQueued;
  const Entry last = timers_.back();
  timers_.pop_back();
  if (index == timers_.size()) return;
  place(index, last);
  sift_up(index);
  sift_down(last.timer->place_);
}

void Loop::place(size_t index, Entry entry) {
  timers_[index] = entry;
  entry.timer->place_ = index;
}

void Loop::sift_up(size_t index) {
  const Entry entry = timers_[index];
  while (index > 0) {
    const size_t parent = (index - 1) / 2;
    if (timers_[parent].when <= entry.when) break;
    place(index, timers_[parent]);
    index = parent;
  }
  place(index, entry);
}

void Loop::sift_down(size_t index) {
  const Entry entry = timers_[index];
  for (;;) {
    size_t child = 2 * index + 1;
    if (child >= timers_.size()) break;
    if (child + 1 < timers_.size() && timers_[child + 1].when < timers_[child].when) ++child;
    if (entry.when <= timers_[child].when) break;
    place(index, timers_[child]);
    index = child;
  }
  place(index, entry);
}

}  // namespace llmproxy::net
