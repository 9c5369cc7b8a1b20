// How slowly a peer may send or take bytes: a connection that moves one of them now and then must
// not hold its memory for ever.
#pragma once

#include <cstddef>

#include "base/clock.h"

namespace llmproxy::net {

class Pace {
 public:
  static constexpr Milliseconds kWindow{30'000};

  // `rate_min` bytes a second, measured over each `window`; 0: any pace will do.
  Pace(size_t rate_min, MonotonicTime begin, Milliseconds window = kWindow)
      : rate_min_(rate_min), begin_(begin), window_(window) {}

  // `n` bytes moved. False: too few since the window began.
  bool keeps(size_t n, MonotonicTime now) {
    bytes_ += n;
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    if (rate_min_ == 0 || now - begin_ < window_) return true;
    const bool is_fast = static_cast<double>(bytes_) >= static_cast<double>(rate_min_) * seconds;
    begin_ = now;
    bytes_ = 0;
    return is_fast;
  }

 private:
  size_t rate_min_;
  MonotonicTime begin_;
  Milliseconds window_;
  size_t bytes_ = 0;
};

}  // namespace llmproxy::net
