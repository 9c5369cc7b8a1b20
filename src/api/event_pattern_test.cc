// What matches a pattern, and above all what does not.
#include "api/event_pattern.h"

#include <gtest/gtest.h>

#include <string>

namespace llmproxy {
namespace {

std::string event(std::string_view text, std::string_view name = "content",
                  std::string_view more = R"(},"finish_reason":null}]})") {
  std::string bytes = R"(data: {"id":"1","choices":[{"delta":{")";
  bytes.append(name).append("\":\"").append(text).append("\"").append(more).append("\n\n");
  return bytes;
}

EventPattern learnt(std::string_view first, std::string_view second) {
  EventPattern pattern;
  pattern.learn(first);
  pattern.learn(second);
  return pattern;
}

TEST(EventPattern, WhatDiffersInItsTextAloneMatches) {
  EventPattern pattern = learnt(event("The"), event(" sky"));
  for (const char* text :
       {"", "x", " is", "\\n", "\\u00e9", "\xC3\xA9", "usage", "null", ":", "}"}) {
    const std::string bytes = event(text);
    EXPECT_EQ(pattern.match(bytes).bytes, bytes.size()) << text;
    const EventPattern::Run run = pattern.match(bytes + event("next") + bytes.substr(0, 9));
    EXPECT_EQ(run.bytes, bytes.size() + event("next").size()) << text;
    EXPECT_EQ(run.events, 2u) << text;
  }
}

TEST(EventPattern, TextsMayBeginOrEndAlike) {
  for (const char* first : {"", "t", "the", "the\\", "x the"}) {
    EventPattern pattern = learnt(event(first), event("the sky"));
    EXPECT_EQ(pattern.match(event("blue")).bytes, event("blue").size()) << first;
  }
}

TEST(EventPattern, WhatDiffersElsewhereDoesNot) {
  EventPattern pattern = learnt(event("The"), event(" sky"));
  EXPECT_EQ(pattern.match(event("x", "content", R"(},"finish_reason":"stop"}]})")).bytes, 0);
  EXPECT_EQ(pattern.match(event("x", "reasoning")).bytes, 0);
  EXPECT_EQ(
      pattern
          .match(R"(data: {"id":"2","choices":[{"delta":{"content":"x"},"finish_reason":null}]})"
                 "\n\n")
          .bytes,
      0);
  EXPECT_EQ(pattern.match("data: [DONE]\n\n").bytes, 0);
  EXPECT_EQ(pattern.match("").bytes, 0);
}

// A quote may end the text and begin a member; a line end ends the line.
TEST(EventPattern, QuotesAndLineEndsInTheTextDoNot) {
  EventPattern pattern = learnt(event("The"), event(" sky"));
  for (const char* text : {"\\\"", "a\",\"usage\":1,\"b", "\"", "a\nb", "a\rb", "\n", "\n\n"}) {
    EXPECT_EQ(pattern.match(event(text)).bytes, 0) << text;
  }
}

TEST(EventPattern, NothingMatchesBeforeItIsWhole) {
  EventPattern pattern = learnt(event("The"), event(" sky"));
  const std::string bytes = event("x");
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_EQ(pattern.match(std::string_view(bytes).substr(0, size)).bytes, 0) << size;
  }
}

TEST(EventPattern, OneEventIsNoPattern) {
  EventPattern pattern;
  pattern.learn(event("The"));
  EXPECT_EQ(pattern.match(event("The")).bytes, 0);
}

struct Case {
  const char* what;
  std::string first, second;
};

// The value of any other member might mean something.
TEST(EventPattern, OnlyTextsMayDiffer) {
  const Case cases[] = {
      {"another member", event("a", "finish_reason"), event("b", "finish_reason")},
      {"an unknown one", event("a", "x"), event("b", "x")},
      {"a name",
       R"(data: {"content":"a":1})"
       "\n\n",
       R"(data: {"content":"b":1})"
       "\n\n"},
      {"a number", "data: {\"content\":1}\n\n", "data: {\"content\":2}\n\n"},
      {"no object", "data: [\"content\":\"a\"]\n\n", "data: [\"content\":\"b\"]\n\n"},
      {"another line end", "data: {\"content\":\"a\"}\r\n\r\n",
       "data: {\"content\":\"b\"}\r\n\r\n"},
      {"nothing", event("a"), event("a")},
      {"too long", event("a" + std::string(EventPattern::kEventBytesMax, 'x')),
       event("b" + std::string(EventPattern::kEventBytesMax, 'x'))},
  };
  for (const Case& c : cases) {
    EventPattern pattern = learnt(c.first, c.second);
    EXPECT_EQ(pattern.match(c.first).bytes, 0) << c.what;
    EXPECT_EQ(pattern.match(c.second).bytes, 0) << c.what;
  }
}

TEST(EventPattern, LongTextsAreRead) {
  EventPattern pattern = learnt(event("The"), event(" sky"));
  const std::string fits = event(std::string(EventPattern::kTextBytesMax, 'x'));
  EXPECT_EQ(pattern.match(fits).bytes, fits.size());
  EXPECT_EQ(pattern.match(event(std::string(EventPattern::kTextBytesMax + 1, 'x'))).bytes, 0);
}

// A stream whose events have no pattern is not asked for one for ever.
TEST(EventPattern, GivesUp) {
  EventPattern pattern;
  for (int i = 0; i < EventPattern::kFailuresMax; ++i) {
    pattern.learn(event("x", "obfuscation" + std::to_string(i)));
  }
  pattern.learn(event("The"));
  pattern.learn(event(" sky"));
  EXPECT_EQ(pattern.match(event("x")).bytes, 0);
}

TEST(EventPattern, AMatchRenewsTheHope) {
  EventPattern pattern;
  for (int i = 0; i < 3 * EventPattern::kFailuresMax; ++i) {
    const std::string name = i % 2 == 0 ? "content" : "text";  // as reasoning turns to an answer
    pattern.learn(event("a", name));
    pattern.learn(event("b", name));
    ASSERT_GT(pattern.match(event("c", name)).bytes, 0) << i;
  }
}

}  // namespace
}  // namespace llmproxy
