// What a reply says about its own cost, as facts; billing/outcome decides what they are worth.
// A figure is a usage object with whole, non-negative counts up to 2^53 (7.0 is 7; anything else, a
// string or a missing count too, is malformed). Several figures are never added up across events,
// but where a server sends one final figure per choice.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace llmproxy {

struct Figure {
  int64_t prompt_n = 0;
  int64_t completion_n = 0;

  bool operator==(const Figure&) const = default;
};

constexpr int64_t kCountMax = int64_t{1} << 53;

struct ReplyFacts {
  // Final: of a plain reply, or in a stream with or after the finish reason, or in the chunk made
  // for it. For several choices it stands only when it is one figure for all of them, or the sum of
  // one per choice.
  std::optional<Figure> final_figure;
  std::optional<Figure> running_figure;  // the last one before that
  bool is_malformed = false;     // the last usage seen was no figure; a later good figure clears it
  uint64_t data_events = 0;      // events with data, comments and pings not counted
  bool saw_other_bytes = false;  // what is no event nor part of one: compressed, bare JSON, HTML
  bool saw_error = false;        // an error object inside the stream
  bool saw_terminal = false;     // data: [DONE] and its like
};

}  // namespace llmproxy
