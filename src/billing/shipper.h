// What waits for the database, as a step function: which events go next and when, and what an
// answer means for them. Knows no thread, lock, clock, log or file: the ledger's thread drives it,
// tests do by hand.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "billing/database.h"
#include "billing/event.h"

namespace llmproxy {

class Shipper {
 public:
  struct Settings {
    Milliseconds ship_interval{1'000};  // an event waits at most this long for others to go with it
    Milliseconds backoff_min{100};      // after the first failure
    Milliseconds backoff_max{5'000};    // doubled up to this
  };
  static constexpr size_t kBatchMax = Database::kBatchMax;

  // `draw` gives evenly spread numbers of [0, 1): the jitter, so that many proxies do not come back
  // at once.
  Shipper(Settings settings, std::function<double()> draw);

  // Events come in the order of their sequences. `now`: when it began to wait. True when due()
  // moved: the batch is the first or now full.
  bool push(uint64_t sequence, Event event, MonotonicTime now);

  // When take() should be called. Nothing: not before a push() or answer().
  std::optional<MonotonicTime> due() const;

  // No more waiting for others to come along, and back-off starts anew.
  void hurry();

  // The oldest events, at most kBatchMax. They stay here until answer().
  std::vector<Event> take();

  struct Answer {
    std::vector<Event> delivered, refused;
    bool outage_began = false;
    std::optional<Milliseconds>
        outage_lasted;  // set by the first answer that left nothing to retry
  };
  // What became of the batch that take() gave: kRetry stays, in its order, ahead of all others.
  Answer answer(const BatchResult& result, MonotonicTime now);

  // All that is still here, the batch under way first. Empties it.
  std::vector<Event> drop();

  // The oldest sequence that is not settled; nothing: none is here.
  std::optional<uint64_t> oldest() const;
  size_t size() const { return queue_.size(); }
  bool is_under_way() const { return under_way_ > 0; }           // between take() and answer()
  size_t waiting() const { return queue_.size() - under_way_; }  // for the next take()

 private:
  struct Waiting {
    uint64_t sequence;
    Event event;
  };

  const Settings settings_;
  const std::function<double()> draw_;
  std::deque<Waiting> queue_;
  size_t under_way_ = 0;  // of the front of queue_
  bool is_hurried_ = false;
  MonotonicTime oldest_{};                   // when the first that waits was pushed, or earlier
  std::optional<MonotonicTime> retry_at_{};  // while the database fails
  std::optional<MonotonicTime> failed_since_{};
  Milliseconds backoff_{0};
};

}  // namespace llmproxy
