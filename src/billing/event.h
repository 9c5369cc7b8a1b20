// The bill of one completion: exactly the fields of billing.events_completion.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "billing/key.h"
#include "billing/object_id.h"

namespace llmproxy {

struct Event {
  ObjectId id;              // minted before the call
  WallMs date_created = 0;  // when the request finished
  TypedValue user_id;
  std::string api_key_id;
  std::string model;  // as requested
  int64_t prompt_n = 0;
  int64_t completion_n = 0;

  bool operator==(const Event&) const = default;
};

}  // namespace llmproxy
