// Hexadecimal digits.
#pragma once

#include <array>
#include <cstdint>

namespace llmproxy {

constexpr std::array<int8_t, 256> make_hex_values() {
  std::array<int8_t, 256> values{};
  values.fill(-1);
  for (int8_t i = 0; i < 10; ++i) values[static_cast<size_t>('0' + i)] = i;
  for (int8_t i = 10; i < 16; ++i) {
    values[static_cast<size_t>('a' + i - 10)] = values[static_cast<size_t>('A' + i - 10)] = i;
  }
  return values;
}
inline constexpr std::array<int8_t, 256> kHexValues = make_hex_values();

// The digit's value, in either case, or -1.
constexpr int hex_value(char c) {
  return kHexValues[static_cast<uint8_t>(c)];
}

}  // namespace llmproxy
