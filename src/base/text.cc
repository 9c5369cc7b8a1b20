// UTF-8 by RFC 3629 section 4: no overlong form, no surrogate, nothing above U+10FFFF.
#include "base/text.h"

#include <cstdint>

namespace llmproxy {

size_t printable_length(std::string_view text) {
  const auto at = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0U; };
  const auto follows = [&](size_t i) { return (at(i) & 0xc0U) == 0x80U; };
  const unsigned first = at(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  if (first >= 0xc2 && first <= 0xdf) {
    const bool is_c1 = first == 0xc2 && at(1) < 0xa0;
    return follows(1) && !is_c1 ? 2 : 0;
  }
  if ((first & 0xf0U) == 0xe0) {
    const bool is_bad = (first == 0xe0 && at(1) < 0xa0) || (first == 0xed && at(1) > 0x9f);
    return follows(1) && follows(2) && !is_bad ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const bool is_bad = (first == 0xf0 && at(1) < 0x90) || (first == 0xf4 && at(1) > 0x8f);
    return follows(1) && follows(2) && follows(3) && !is_bad ? 4 : 0;
  }
  return 0;
}

bool is_printable(std::string_view text) {
  while (!text.empty()) {
    const size_t length = printable_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace llmproxy
