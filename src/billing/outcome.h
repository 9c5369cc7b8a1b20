// What a request costs: the one table (docs: "What is billed"). Everything that decides it is here,
// and nothing else anywhere decides it.
#pragma once

#include <string_view>

#include "api/usage.h"
#include "config/config.h"

namespace llmproxy {

// All that is known of a request when it is over.
struct Evidence {
  bool was_sent = false;        // at least one byte of the call may have reached the backend
  bool has_head = false;        // the reply's head was read whole
  int status = 0;               // of the reply
  bool is_stream = false;       // by the reply's Content-Type
  bool is_encoded = false;      // by its Content-Encoding: nobody here can read it
  bool ended_normally = false;  // the body came whole: length, last chunk, or [DONE] before a close
  bool is_too_long = false;     // a plain reply beyond the bound, not read
  bool is_abandoned = false;    // a bug of the proxy ended it in the middle
  bool is_unrecorded = false;   // it could not be recorded, and so nothing of it was sent
  int64_t choices = 1;
  UsagePolicy policy = UsagePolicy::kAsk;
  ReplyFacts facts{};
};

struct Outcome {
  enum class Kind : uint8_t { kBilled, kFree, kUnresolved };
  Kind kind = Kind::kFree;
  Figure figure{};            // kBilled only
  std::string_view reason{};  // static text: which row of the table
  bool is_warning = false;    // free, but worth a warning line
};

Outcome decide_outcome(const Evidence& evidence);

}  // namespace llmproxy
