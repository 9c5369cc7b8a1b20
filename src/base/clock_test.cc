// Tests of base/clock.h: times as text, both ways.
#include "base/clock.h"

#include <gtest/gtest.h>

#include <limits>

namespace llmproxy {
namespace {

struct Text {
  const char* text;
  WallMs time;
};

TEST(FormatUtc, TableOfTimes) {
  const Text cases[] = {
      {"1970-01-01T00:00:00.000Z", 0},
      {"1969-12-31T23:59:59.999Z", -1},
      {"2026-11-23T14:05:09.123Z", 1795442709123},
      {"2024-02-29T23:59:59.001Z", 1709251199001},
      {"0000-01-01T00:00:00.000Z", -62167219200000},
      {"9999-12-31T23:59:59.999Z", 253402300799999},
      {"0000-01-01T00:00:00.000Z", -62167219200001},
      {"9999-12-31T23:59:59.999Z", 253402300800000},
      {"0000-01-01T00:00:00.000Z", std::numeric_limits<WallMs>::min()},
      {"9999-12-31T23:59:59.999Z", std::numeric_limits<WallMs>::max()},
  };
  for (const auto& c : cases) EXPECT_EQ(format_utc(c.time), c.text) << c.time;
}

TEST(ParseUtc, ReadsEachForm) {
  const Text cases[] = {
      {"2026-11-23", 1795392000000},
      {"2026-11-23T14:05", 1795442700000},
      {"2026-11-23 14:05", 1795442700000},
      {"2026-11-23T14:05:09", 1795442709000},
      {"2026-11-23T14:05:09Z", 1795442709000},
      {"2026-11-23T14:05Z", 1795442700000},
      {"2026-11-23T14:05:09.123Z", 1795442709123},
      {"2026-11-23T14:05:09.1Z", 1795442709100},
      {"2026-11-23T14:05:09.1239999999999999999999Z", 1795442709123},
      {"2026-11-23 14:05:09.12", 1795442709120},
      {"2026-11-23T15:05:09+01:00", 1795442709000},
      {"2026-11-23T08:35:09.5-05:30", 1795442709500},
      {"0000-01-01", -62167219200000},
      {"9999-12-31T23:59:59.999Z", 253402300799999},
      {"2024-02-29", 1709164800000},
  };
  for (const auto& c : cases) EXPECT_EQ(parse_utc(c.text), c.time) << c.text;
}

TEST(ParseUtc, RefusesAllElse) {
  const char* cases[] = {
      "",
      " ",
      "now",
      "2026",
      "2026-11",
      "2026-11-2",
      "26-11-23",
      "2026-13-01",
      "2026-00-01",
      "2026-11-31",
      "2026-11-00",
      "2025-02-29",
      "1900-02-29",
      "2026-11-23Z",
      "2026-11-23T",
      "2026-11-23T14",
      "2026-11-23T14Z",
      "2026-11-23t14:05",
      "2026-11-23T24:00",
      "2026-11-23T14:60",
      "2026-11-23T14:05:60",
      "2026-11-23T14:05:09.",
      "2026-11-23T14:05:09.Z",
      "2026-11-23T14:05.5",
      "2026-11-23T14:05:09,5",
      "2026-11-23T14:05:09z",
      "2026-11-23T14:05:09 Z",
      "2026-11-23T14:05:09+0100",
      "2026-11-23T14:05:09+01",
      "2026-11-23T14:05:09+24:00",
      "2026-11-23T14:05:09+01:60",
      "2026-11-23T14:05:09ZZ",
      "2026-11-23T14:05:09 ",
      " 2026-11-23",
      "2026-11-23  14:05",
      "+026-11-23",
      "2026/11/23",
      "12026-11-23",
  };
  for (const char* text : cases) EXPECT_EQ(parse_utc(text), std::nullopt) << text;
}

TEST(ParseUtc, ReadsWhatFormatWrites) {
  // A step with no common divisor with a day, a minute or a second: all fields vary.
  for (WallMs time = -62167219200000; time <= 253402300799999; time += 98'765'432'101) {
    EXPECT_EQ(parse_utc(format_utc(time)), time);
  }
}

TEST(Clock, WallTimeIsPlausibleAndMonotonicTimeNeverFalls) {
  EXPECT_GT(wall_now_ms(), *parse_utc("2024-01-01"));
  EXPECT_LT(wall_now_ms(), *parse_utc("2200-01-01"));
  const MonotonicTime first = monotonic_now();
  EXPECT_LE(first, monotonic_now());
}

}  // namespace
}  // namespace llmproxy
