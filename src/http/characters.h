// Character classes of HTTP/1.1 (RFC 9110 section 5.6.2, RFC 9112, RFC 3986): one table, one
// look-up a byte. Bytes only: no locale, no UTF-8.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace llmproxy::http {

enum CharacterClass : uint8_t {
  kTokenCharacter = 1,   // methods and field names
  kValueCharacter = 2,   // HTAB, SP, VCHAR and obs-text: field values, reason phrases
  kTargetCharacter = 4,  // VCHAR but for `#`: a fragment is never sent
  kHostCharacter = 8,    // unreserved and sub-delims; `%` is looked at apart
};

namespace detail {

constexpr std::array<uint8_t, 256> make_character_classes() {
  std::array<uint8_t, 256> classes{};
  const auto add = [&classes](std::string_view characters, uint8_t bit) {
    for (const char c : characters) classes[static_cast<uint8_t>(c)] |= bit;
  };
  for (unsigned c = 0x21; c <= 0x7e; ++c) classes[c] |= kValueCharacter | kTargetCharacter;
  for (unsigned c = 0x80; c <= 0xff; ++c) classes[c] |= kValueCharacter;
  add("\t ", kValueCharacter);
  classes['#'] &= static_cast<uint8_t>(~kTargetCharacter);
  for (const std::string_view alphanumeric :
       {"0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}) {
    add(alphanumeric, kTokenCharacter | kHostCharacter);
  }
  add("!#$%&'*+-.^_`|~", kTokenCharacter);
  add("-._~!$&'()*+,;=", kHostCharacter);
  return classes;
}

inline constexpr std::array<uint8_t, 256> kCharacterClasses = make_character_classes();

}  // namespace detail

constexpr bool is_in(char c, CharacterClass character_class) {
  return (detail::kCharacterClasses[static_cast<uint8_t>(c)] & character_class) != 0;
}

constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
constexpr bool is_blank(char c) {
  return c == ' ' || c == '\t';
}
constexpr char to_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
}

// Without the blanks around it.
constexpr std::string_view trim(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace llmproxy::http
