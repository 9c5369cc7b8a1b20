// Events that differ from each other only inside one string. Nearly all of a stream do: a server
// makes each of the same members in the same order, with another piece of text in it. Knowing one,
// the others are recognised by two comparisons instead of being cut, searched and read. Bytes only:
// whatever is not sure is no match.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace llmproxy {

class EventPattern {
 public:
  static constexpr size_t kEventBytesMax = 1024;  // longer ones are not kept
  static constexpr size_t kTextBytesMax = 256;    // nor does a longer text match
  static constexpr int kFailuresMax = 16;         // in a row: then this stream has no pattern

  // `event`, whole and in one `data:` line, counts as one event with data and says nothing else.
  // Then all that match say just as little: they may differ from it, and from the one that was
  // learnt before, only in the value of a member that holds a piece of the answer, and there only
  // by bytes that are neither quotes nor line ends. So no other member can begin or end in them.
  void learn(std::string_view event);

  // The events at the front of `bytes` that are whole and match.
  struct Run {
    size_t bytes = 0;
    uint64_t events = 0;
  };
  Run match(std::string_view bytes);

 private:
  std::string event_;  // learnt last
  size_t front_ = 0;   // of its bytes: up to the quote that opens the text; 0 without a pattern
  size_t back_ = 0;    // from the quote that closes it
  int failures_ = 0;   // learnt since the last match
};

}  // namespace llmproxy
