// The rules are in the header.
#include "api/choice_tally.h"

namespace llmproxy {

namespace {

constexpr uint8_t kSeen = 1;
constexpr uint8_t kFinished = 2;
constexpr uint8_t kHasFigure = 4;

}  // namespace

void ChoiceTally::Sum::add(Figure next, bool closes) {
  if (count > 0 && next.prompt_n != figure.prompt_n) is_malformed = true;
  if (next.completion_n > kCountMax - figure.completion_n) {
    is_malformed = true;
  } else {
    figure.completion_n += next.completion_n;
  }
  figure.prompt_n = next.prompt_n;
  last = next;
  closes_all = closes;
  ++count;
}

void ChoiceTally::see(int64_t index, bool is_finished) {
  ends_.closes_all = false;
  finishes_.closes_all = false;
  if (index < 0 || index >= kChoicesMax) {
    spoil();
    return;
  }
  const auto at = static_cast<size_t>(index);
  if (at >= states_.size()) states_.resize(at + 1);
  if ((states_[at] & kSeen) == 0) ++seen_;
  if (is_finished && (states_[at] & kFinished) == 0) ++finished_;
  states_[at] = static_cast<uint8_t>(states_[at] | kSeen | (is_finished ? kFinished : 0));
}

void ChoiceTally::add_end_figure(Figure figure) {
  ends_.add(figure, all_seen_finished());
}

void ChoiceTally::add_finish_figure(Figure figure, int64_t index) {
  const auto at = static_cast<size_t>(index);
  if (index < 0 || at >= states_.size()) {
    is_shared_ = true;
  } else if ((states_[at] & kHasFigure) != 0) {
    spoil();
  } else {
    states_[at] = static_cast<uint8_t>(states_[at] | kHasFigure);
  }
  finishes_.add(figure, all_seen_finished());
}

ChoiceTally::Total ChoiceTally::total(bool saw_error) const {
  if (is_spoiled_) return {};
  const bool all_finished = finished_ == choices_ && seen_ == choices_;
  const bool has_ends = ends_.count > 0;
  const Sum& sum = has_ends ? ends_ : finishes_;
  if (!has_ends && running_ > 0) return {};
  if (sum.count == 1) {
    // Servers that know no `n` answer with one choice and bill it so; after an error nothing is
    // sure.
    const bool is_complete = all_finished || (has_ends && !saw_error);
    if (!sum.closes_all || !is_complete) return {};
    return {.figure = sum.last};
  }
  if (sum.count != choices_ || !all_finished || (!has_ends && is_shared_)) return {};
  if (sum.is_malformed) return {.figure = std::nullopt, .is_malformed = true};
  return {.figure = sum.figure};
}

}  // namespace llmproxy
