// ISO 8601 is base/clock's.
#include "cli/when.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <utility>

#include "api/json_edit.h"

namespace llmproxy {
namespace {

constexpr int64_t kDayMs = 86'400'000;
constexpr int64_t kSpanMaxMs = 36'500 * kDayMs;

// "30d" in milliseconds.
std::optional<int64_t> parse_span(std::string_view text) {
  constexpr std::pair<char, int64_t> kUnits[] = {
      {'s', 1'000}, {'m', 60'000}, {'h', 3'600'000}, {'d', kDayMs}, {'w', 7 * kDayMs}};
  if (text.empty()) return std::nullopt;
  const auto unit = std::find_if(std::begin(kUnits), std::end(kUnits),
                                 [&](const auto& one) { return one.first == text.back(); });
  if (unit == std::end(kUnits)) return std::nullopt;
  const char* const end = text.data() + text.size() - 1;
  int64_t amount = 0;
  const auto [stop, problem] = std::from_chars(text.data(), end, amount);
  if (problem != std::errc() || stop != end || amount < 0) return std::nullopt;
  if (amount > kSpanMaxMs / unit->second) return std::nullopt;
  return amount * unit->second;
}

Error no_time(std::string_view text, std::string_view expected) {
  return {.message = fmt::format("{} is no time: write {}", quote_json(text), expected)};
}

}  // namespace

Result<std::optional<WallMs>> parse_when(std::string_view text, WallMs now) {
  if (text == "never") return std::optional<WallMs>();
  if (text == "now") return std::optional(now);
  if (text.starts_with('+')) {
    if (const auto span = parse_span(text.substr(1))) return std::optional(now + *span);
  } else if (const std::optional<WallMs> time = parse_utc(text)) {
    return time;
  }
  return no_time(text, "never, now, +30d (s, m, h, d, w) or 2027-01-31T12:00:00Z");
}

Result<WallMs> parse_since(std::string_view text, WallMs now) {
  if (text == "now") return now;
  if (const auto span = parse_span(text)) return now - *span;
  if (const std::optional<WallMs> time = parse_utc(text)) return *time;
  return no_time(text, "now, 30d for thirty days ago (s, m, h, d, w) or 2026-11-01T00:00:00Z");
}

}  // namespace llmproxy
