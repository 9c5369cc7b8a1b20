// Events and their fields, whatever the line ends and the cuts.
#include "api/sse.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace llmproxy {
namespace {

// The events of `bytes`, cut where `cuts` say, as they stand in the bytes.
std::vector<std::string> split(std::string_view bytes, const std::vector<size_t>& cuts) {
  SseSplitter splitter;
  std::vector<std::string> events;
  size_t taken = 0;
  const auto read_until = [&](size_t end) {
    while (const size_t size = splitter.next(bytes.substr(taken, end - taken))) {
      events.emplace_back(bytes.substr(taken, size));
      taken += size;
    }
  };
  for (const size_t cut : cuts) read_until(cut);
  read_until(bytes.size());
  return events;
}

TEST(SseSplitter, FindsEvents) {
  const struct {
    std::string_view bytes;
    std::vector<std::string> events;
  } cases[] = {
      {"", {}},
      {"data: a\n", {}},
      {"data: a\n\n", {"data: a\n\n"}},
      {"data: a\r\n\r\n", {"data: a\r\n\r\n"}},
      {"data: a\r\r", {"data: a\r\r"}},
      {"data: a\n\r\n", {"data: a\n\r\n"}},
      {"data: a\r\n\n", {"data: a\r\n\n"}},
      {"data: a\n\rdata: b\r\r\n", {"data: a\n\r", "data: b\r\r\n"}},
      {"data: a\r\n", {}},
      {"data: a\r\ndata: b\n\ndata", {"data: a\r\ndata: b\n\n"}},
      {"a\n\nb\r\n\r\nc\r\rd", {"a\n\n", "b\r\n\r\n", "c\r\r"}},
      {"\n", {"\n"}},
      {"\r\n\n\r", {"\r\n", "\n", "\r"}},
      {"a\n\n\nb\n\n", {"a\n\n", "\n", "b\n\n"}},
      {":\n\n", {":\n\n"}},
  };
  for (const auto& c : cases) EXPECT_EQ(split(c.bytes, {}), c.events) << c.bytes;
}

TEST(SseSplitter, FindsTheSameEventsHoweverCut) {
  const std::string_view bytes =
      "data: a\n\nx\r\n\r\n:\r\rdata: b\r\ndata: c\n\n\r\n\n\rdata: d\r\r\nz";
  std::string scratch;
  const auto data_of = [&](const std::vector<std::string>& events) {
    std::string all;
    for (const std::string& event : events) {
      const SseEvent parsed = parse_sse_event(event, scratch);
      if (parsed.has_data) all.append(parsed.data).append("|");
    }
    return all;
  };
  EXPECT_EQ(data_of(split(bytes, {})), "a|b\nc|d|");
  for (size_t first = 1; first < bytes.size(); ++first) {
    for (size_t second = first; second < bytes.size(); ++second) {
      ASSERT_EQ(data_of(split(bytes, {first, second})), "a|b\nc|d|") << first << " " << second;
    }
  }
}

TEST(SseSplitter, FindsAnEventWithTheByteThatEndsIt) {
  for (const std::string event : {"data: a\n\n", "data: a\r\n\r", "data: a\r\r", "a\n\r", "\n"}) {
    SseSplitter splitter;
    for (size_t size = 0; size < event.size(); ++size) {
      ASSERT_EQ(splitter.next(std::string_view(event).substr(0, size)), 0U) << event;
    }
    EXPECT_EQ(splitter.next(event), event.size()) << event;
  }
}

TEST(SseSplitter, LineFeedOfASplitLineEndOpensTheNextEvent) {
  SseSplitter splitter;
  EXPECT_EQ(splitter.next("a\r\n\r"), 4U);
  EXPECT_EQ(splitter.next("\n"), 0U);
  EXPECT_EQ(splitter.next("\nb\n\n"), 4U);
}

TEST(SseSplitter, ForgetsWhatWasSentOnEarly) {
  SseSplitter splitter;
  EXPECT_EQ(splitter.next("data: abc\n"), 0U);
  splitter.forget(10);
  EXPECT_EQ(splitter.next("data: d\n\nx"), 9U);
  EXPECT_EQ(splitter.next("x"), 0U);
  splitter.forget(1);
  EXPECT_EQ(splitter.next("\n\n"), 2U);
}

TEST(SseSplitter, CountsTheLinesOfAnEventHoweverCut) {
  const std::string_view bytes = "a\n\nb\r\nc\r\n\r\n\nd\re\rf\r\r:\n\n";
  for (size_t step = 1; step <= bytes.size(); ++step) {
    SseSplitter splitter;
    std::vector<size_t> lines;
    size_t taken = 0;
    for (size_t end = 0; end < bytes.size();) {
      end = std::min(end + step, bytes.size());
      while (const size_t size = splitter.next(bytes.substr(taken, end - taken))) {
        lines.push_back(splitter.lines());
        taken += size;
      }
    }
    EXPECT_EQ(lines, (std::vector<size_t>{1, 2, 0, 3, 1})) << step;
  }
}

// A buffer full of short lines must not be searched once per line for the line end it does not use.
TEST(SseSplitter, LongLinesAcrossTheSearchWindow) {
  for (const size_t length : {510U, 511U, 512U, 513U, 1023U, 1024U, 5000U}) {
    const std::string line(length, 'x');
    EXPECT_EQ(split(line + "\r\n\r\n" + line + "\r\r" + line + "\n\n", {}).size(), 3U) << length;
  }
}

TEST(SseEvent, ReadsFields) {
  const struct {
    std::string_view raw;
    std::string_view type;
    std::string_view data;
    bool has_data;
  } cases[] = {
      {"data: a\n\n", "", "a", true},
      {"data:a\n\n", "", "a", true},
      {"data:  a \n\n", "", " a ", true},
      {"data\n\n", "", "", true},
      {"data:\n\n", "", "", true},
      {"data: a", "", "a", true},
      {"data: a\ndata:b\r\ndata\n\n", "", "a\nb\n", true},
      {"\ndata: a\n\n", "", "a", true},
      {"event: x\ndata: a\n\n", "x", "a", true},
      {"event:x\n\n", "x", "", false},
      {"event: x\nevent: y\n\n", "y", "", false},
      {": data: a\n\n", "", "", false},
      {"database: a\n\n", "", "", false},
      {" data: a\n\n", "", "", false},
      {"id: 1\nretry: 5\n\n", "", "", false},
      {"\xEF\xBB\xBF"
       "data: a\n\n",
       "", "a", true},
      {"", "", "", false},
  };
  std::string scratch = "old";
  for (const auto& c : cases) {
    const SseEvent event = parse_sse_event(c.raw, scratch);
    EXPECT_EQ(event.type, c.type) << c.raw;
    EXPECT_EQ(event.data, c.data) << c.raw;
    EXPECT_EQ(event.has_data, c.has_data) << c.raw;
  }
}

TEST(SseEvent, TellsWhatIsNoneFromFieldsAndComments) {
  std::string scratch;
  for (const char* raw : {"", "\n", ":\n\n", ": a\n\n", "data: a\n\n", "data\n\n", "event: x\n\n",
                          "event\n\n", "id: 1\nretry:5\nid\nretry\n\n", "\r\n: a\r\n\r\n"}) {
    EXPECT_FALSE(parse_sse_event(raw, scratch).has_other) << raw;
  }
  for (const char* raw : {"a\n\n", "a: b\n\n", " data: a\n\n", "{\"a\":1}", "<html>\n\n",
                          "idx: 1\n\n", "data: a\nb\n\n", "\x1f\x8b:", "events: x\n\n"}) {
    EXPECT_TRUE(parse_sse_event(raw, scratch).has_other) << raw;
  }
}

TEST(SseEvent, DataOfOneLineIsNotCopied) {
  const std::string raw = "data: abc\n\n";
  std::string scratch;
  EXPECT_EQ(parse_sse_event(raw, scratch).data.data(), raw.data() + 6);
}

}  // namespace
}  // namespace llmproxy
