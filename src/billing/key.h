// An API key, as the database has it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"

namespace llmproxy {

// A value that keeps the BSON type it has in the database (string, ObjectId, int, ...), so that an
// event carries it unchanged. `bytes` is the BSON encoding of the value alone, as the element's
// value stands in a document; only db/mongo reads it. `text` is what people and SQLite see.
struct TypedValue {
  uint8_t bson_type = 0x02;  // string
  std::string bytes{};
  std::string text{};

  bool operator==(const TypedValue&) const = default;
};

struct Key {
  std::string id;  // hex of an ObjectId; for other types what Python's str() of it gives
  TypedValue user_id;
  std::optional<WallMs> expires;  // refused from this moment on

  bool is_expired(WallMs now) const { return expires && *expires <= now; }
};

}  // namespace llmproxy
