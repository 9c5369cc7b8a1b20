// The two clocks. Wall time dates events and expires keys; every timer uses the monotonic clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace llmproxy {

using Milliseconds = std::chrono::milliseconds;
using MonotonicTime = std::chrono::steady_clock::time_point;

// Milliseconds since 1970-01-01T00:00:00Z: the resolution of a BSON Date.
using WallMs = int64_t;

WallMs wall_now_ms();
MonotonicTime monotonic_now();

// "2026-11-23T14:05:09.123Z": 24 bytes for years 0 to 9999; times outside are clamped to them.
std::string format_utc(WallMs time);

// Reads an ISO 8601 time: date alone (midnight UTC), `T` or blank between date and time, seconds
// and fraction optional (cut to ms), zone `Z`, `+hh:mm`, `-hh:mm` or none (UTC). Anything else:
// nothing.
std::optional<WallMs> parse_utc(std::string_view text);

}  // namespace llmproxy
