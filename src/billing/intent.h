// What is known of a request before its answer: who asked which model when.
#pragma once

#include <string>

#include "base/clock.h"
#include "billing/key.h"
#include "billing/object_id.h"

namespace llmproxy {

struct Intent {
  ObjectId id;
  WallMs time = 0;  // when the request began
  TypedValue user_id;
  std::string api_key_id;
  std::string model;
  std::string backend;

  bool operator==(const Intent&) const = default;
};

}  // namespace llmproxy
