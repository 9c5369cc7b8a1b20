// The order and timing of batches. What an event is worth to people (log, counts) is the ledger's.
#include "billing/shipper.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace llmproxy {

Shipper::Shipper(Settings settings, std::function<double()> draw)
    : settings_(settings), draw_(std::move(draw)) {}

bool Shipper::push(uint64_t sequence, Event event, MonotonicTime now) {
  LLMPROXY_CHECK(queue_.empty() || sequence > queue_.back().sequence);
  queue_.push_back({sequence, std::move(event)});
  if (waiting() == 1) oldest_ = now;
  return waiting() == 1 || waiting() == kBatchMax;
}

std::optional<MonotonicTime> Shipper::due() const {
  if (under_way_ > 0 || queue_.empty()) return std::nullopt;
  if (retry_at_) return retry_at_;
  if (is_hurried_ || queue_.size() >= kBatchMax) return MonotonicTime::min();
  return oldest_ + settings_.ship_interval;
}

void Shipper::hurry() {
  is_hurried_ = true;
  backoff_ = Milliseconds{0};
  if (retry_at_) retry_at_ = MonotonicTime::min();
}

std::vector<Event> Shipper::take() {
  LLMPROXY_CHECK(under_way_ == 0);
  under_way_ = std::min(queue_.size(), kBatchMax);
  std::vector<Event> batch;
  batch.reserve(under_way_);
  for (size_t i = 0; i < under_way_; ++i) batch.push_back(queue_[i].event);
  return batch;
}

Shipper::Answer Shipper::answer(const BatchResult& result, MonotonicTime now) {
  LLMPROXY_CHECK(result.deliveries.size() == under_way_);
  Answer answer;
  std::vector<Waiting> kept;
  for (const Delivery delivery : result.deliveries) {
    Waiting waiting = std::move(queue_.front());
    queue_.pop_front();
    if (delivery == Delivery::kDelivered) answer.delivered.push_back(std::move(waiting.event));
    if (delivery == Delivery::kRefused) answer.refused.push_back(std::move(waiting.event));
    if (delivery == Delivery::kRetry) kept.push_back(std::move(waiting));
  }
  under_way_ = 0;
  const bool is_failing = !kept.empty();
  queue_.insert(queue_.begin(), std::make_move_iterator(kept.begin()),
                std::make_move_iterator(kept.end()));
  if (!is_failing) {
    if (failed_since_) {
      answer.outage_lasted = std::chrono::duration_cast<Milliseconds>(now - *failed_since_);
    }
    failed_since_.reset();
    retry_at_.reset();
    backoff_ = Milliseconds{0};
    return answer;
  }
  answer.outage_began = !failed_since_;
  if (!failed_since_) failed_since_ = now;
  backoff_ = std::clamp(2 * backoff_, settings_.backoff_min, settings_.backoff_max);
  // Between half and all of the back-off.
  retry_at_ =
      now + std::chrono::duration_cast<MonotonicTime::duration>(backoff_ * (0.5 + draw_() / 2));
  return answer;
}

std::vector<Event> Shipper::drop() {
  std::vector<Event> all;
  for (Waiting& waiting : queue_) all.push_back(std::move(waiting.event));
  queue_.clear();
  under_way_ = 0;
  retry_at_.reset();
  return all;
}

std::optional<uint64_t> Shipper::oldest() const {
  if (queue_.empty()) return std::nullopt;
  return queue_.front().sequence;
}

}  // namespace llmproxy
