// Sixteen bytes looked at at once, by vectors as GCC and clang have them.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace llmproxy {

constexpr size_t kLanes = 16;
using Lanes = unsigned char __attribute__((vector_size(kLanes)));

// kLanes bytes can be read there.
inline Lanes load_lanes(const char* at) {
  Lanes lanes;
  std::memcpy(&lanes, at, sizeof lanes);
  return lanes;
}

// What a comparison of lanes says, as two words: the byte of each place is 0xff where it holds, and
// 0 elsewhere.
constexpr size_t kWordLanes = sizeof(uint64_t);
using LaneWords = std::array<uint64_t, kLanes / kWordLanes>;
template <class Vector>
LaneWords words_of(Vector lanes) {
  LaneWords words;
  static_assert(sizeof words == sizeof lanes);
  std::memcpy(words.data(), &lanes, sizeof words);
  return words;
}

// The first place where it holds, in a word that has one.
inline size_t first_lane(uint64_t word) {
  constexpr bool is_little = std::endian::native == std::endian::little;
  return static_cast<size_t>(is_little ? std::countr_zero(word) : std::countl_zero(word)) / 8;
}

// The same, and takes it out of the word.
inline size_t take_lane(uint64_t& word) {
  constexpr bool is_little = std::endian::native == std::endian::little;
  const size_t place = first_lane(word);
  word &= ~(uint64_t{0xff} << (is_little ? place : kWordLanes - 1 - place) * 8);
  return place;
}

}  // namespace llmproxy
