// ObjectIds: their text, and minting them. Does not know what they name.
#include "billing/object_id.h"

#include <algorithm>

#include "base/digest.h"

namespace llmproxy {
namespace {

constexpr int kCounterBits = 24;
constexpr uint64_t kCounterMask = (uint64_t{1} << kCounterBits) - 1;

}  // namespace

ObjectId::HexText ObjectId::hex_text() const {
  HexText text;
  write_hex(bytes, text.data());
  return text;
}

std::string ObjectId::hex() const {
  return to_hex(bytes);
}

std::optional<ObjectId> ObjectId::from_hex(std::string_view hex) {
  ObjectId id;
  if (hex.size() != 2 * id.bytes.size()) return std::nullopt;
  const std::optional<std::string> raw = llmproxy::from_hex(hex);
  if (!raw || raw->size() != id.bytes.size()) return std::nullopt;
  std::transform(raw->begin(), raw->end(), id.bytes.begin(),
                 [](char byte) { return static_cast<uint8_t>(byte); });
  return id;
}

ObjectIdMint::ObjectIdMint() {
  random_bytes(random_);
  std::array<uint8_t, 3> start{};
  random_bytes(start);
  last_ = uint64_t{start[0]} << 16 | uint64_t{start[1]} << 8 | start[2];
}

ObjectId ObjectIdMint::mint(WallMs now) {
  const uint64_t seconds = now > 0 ? static_cast<uint64_t>(now) / 1000 : 0;
  uint64_t last = last_.load(std::memory_order_relaxed);
  uint64_t next = 0;
  do {
    next = last + 1;  // a full counter carries into the seconds
    if (next >> kCounterBits < seconds) next = seconds << kCounterBits | (next & kCounterMask);
  } while (!last_.compare_exchange_weak(last, next, std::memory_order_relaxed));

  ObjectId id;
  for (size_t i = 0; i < 4; ++i) {
    id.bytes[i] = static_cast<uint8_t>(next >> (kCounterBits + 24 - 8 * i));
  }
  std::copy(random_.begin(), random_.end(), id.bytes.begin() + 4);
  for (size_t i = 0; i < 3; ++i) id.bytes[9 + i] = static_cast<uint8_t>(next >> (16 - 8 * i));
  return id;
}

}  // namespace llmproxy
