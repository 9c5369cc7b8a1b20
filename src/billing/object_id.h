// MongoDB ObjectIds, minted here: 4 bytes seconds, 5 random bytes of this process's start
// (getrandom), 3 bytes counter. Seconds and counter are one number that only grows: a wrap within a
// second advances it, a clock that steps back does not. Such ids are unique across processes and
// hosts, and cheap to index.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace llmproxy {

struct ObjectId {
  std::array<uint8_t, 12> bytes{};

  auto operator<=>(const ObjectId&) const = default;
  using HexText = std::array<char, 24>;
  HexText hex_text() const;  // lower-case digits
  std::string hex() const;   // the same
  static std::optional<ObjectId> from_hex(std::string_view hex);
};

class ObjectIdMint {
 public:
  ObjectIdMint();             // draws the random bytes and where the counter starts
  ObjectId mint(WallMs now);  // any thread; never the same twice

 private:
  std::array<uint8_t, 5> random_{};
  std::atomic<uint64_t> last_;  // seconds << 24 | counter
};

}  // namespace llmproxy
