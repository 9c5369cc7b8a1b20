// Times as people write them on the command line.
#pragma once

#include <optional>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"

namespace llmproxy {

// To come: `never` (nothing), `now`, an ISO 8601 time, or + and a number and s, m, h, d or w (at
// most 100 years).
Result<std::optional<WallMs>> parse_when(std::string_view text, WallMs now);

// Gone by: `now`, an ISO 8601 time, or a number and s, m, h, d or w: so long ago (at most 100
// years).
Result<WallMs> parse_since(std::string_view text, WallMs now);

}  // namespace llmproxy
