// UTF-8 by RFC 3629 section 4: no overlong form, no surrogate, nothing above U+10FFFF.
#include "base/text.h"

#include <cstdint>
#include <system_error>

#include "base/lanes.h"

namespace llmproxy {

size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0U; };
  const auto is_tail = [&](size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  if (text.empty()) return 0;
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  if (first < 0xE0) return is_tail(1) ? 2 : 0;
  const unsigned second = byte(1);
  if (first < 0xF0) {
    const bool is_overlong = first == 0xE0 && second < 0xA0;
    const bool is_surrogate = first == 0xED && second > 0x9F;
    return is_tail(1) && is_tail(2) && !is_overlong && !is_surrogate ? 3 : 0;
  }
  const bool is_overlong = first == 0xF0 && second < 0x90;
  const bool is_beyond = first == 0xF4 && second > 0x8F;
  return is_tail(1) && is_tail(2) && is_tail(3) && !is_overlong && !is_beyond ? 4 : 0;
}

bool is_utf8(std::string_view text) {
  while (const size_t length = utf8_length(text)) text.remove_prefix(length);
  return text.empty();
}

size_t printable_length(std::string_view text) {
  const size_t length = utf8_length(text);
  if (length == 0) return 0;
  const auto first = static_cast<uint8_t>(text[0]);
  const bool is_ascii_control = first < 0x20 || first == 0x7f;
  const bool is_c1_control = first == 0xc2 && static_cast<uint8_t>(text[1]) < 0xa0;
  return is_ascii_control || is_c1_control ? 0 : length;
}

size_t printable_ascii_length(std::string_view text) {
  size_t length = 0;
  for (; text.size() - length >= kLanes; length += kLanes) {
    const Lanes lanes = load_lanes(text.data() + length);
    const LaneWords other = words_of((lanes < 0x20) | (lanes > 0x7e));
    if ((other[0] | other[1]) != 0) break;
  }
  const auto is_other = [](char c) { return static_cast<uint8_t>(c - 0x20) > 0x7e - 0x20; };
  while (length < text.size() && !is_other(text[length])) ++length;
  return length;
}

bool is_printable(std::string_view text) {
  while (!text.empty()) {
    text.remove_prefix(printable_ascii_length(text));
    if (text.empty()) return true;
    const size_t length = printable_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string errno_text(int error) {
  return std::generic_category().message(error);
}

}  // namespace llmproxy
