// What the parser refuses (design: bodies are validated whole), and how counts are read.
#include "api/json.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <new>
#include <string>
#include <vector>

#include "api/endpoint.h"
#include "api/json_edit.h"
#include "base/large_blocks.h"
#include "base/sanitized.h"
#include "base/test_allocations.h"

namespace llmproxy {
namespace {

bool is_json(std::string_view text) {
  return JsonText(text).ok();
}

// Sanitizers keep memory that was freed, to catch those who use it.
#if defined(LLMPROXY_HAS_ASAN) || defined(LLMPROXY_HAS_TSAN)
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif

// Resident memory of this process.
size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  size_t pages = 0;
  statm >> pages >> pages;
  return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

std::string repeated(std::string_view text, size_t size) {
  std::string all;
  while (all.size() + text.size() < size) all += text;
  return all;
}

TEST(JsonText, TakesNoMoreThanReadingBytesAndGivesItBack) {
  constexpr size_t kSize = 3 << 20;
  map_large_blocks();
  const std::string texts[] = {
      "[" + repeated("0,", kSize) + "0]",
      "[" + repeated("[],", kSize) + "0]",
      "[" + repeated("[[0]],", kSize) + "0]",
      "[" + repeated("\"\",", kSize) + "0]",
      "{" + repeated("\"a\":{},", kSize) + "\"a\":0}",
      "{" + repeated("\"\":\"\",", kSize) + "\"a\":0}",
      "[\"" + std::string(kSize, 'x') + "\"]",
      "[\"" + repeated("\\u0041", kSize) + "\"]",
  };
  for (const std::string& text : texts) {
    const std::string begin = text.substr(0, 10);
    const size_t before = resident_bytes();
    {
      const JsonText json(text);
      ASSERT_TRUE(json.ok()) << begin;
      const std::vector<Member> members = object_members(text);
      if (!kIsSanitized) {
        EXPECT_LT(resident_bytes(), before + reading_bytes(text) + kShortBody) << begin;
      }
    }
    if (!kIsSanitized) {
      EXPECT_LT(resident_bytes(), before + kShortBody) << begin;
    }
  }
  EXPECT_LT(reading_bytes(texts[6]), 3 * kSize);  // a picture does not take what a list takes
}

TEST(JsonText, ServesOnAfterItRanOutOfMemory) {
  const std::string text = "[" + std::string(3 << 20, ' ') + "]";
  for (const int passed : {0, 1, 2, 3}) {  // the copy, and what the parser takes
    allocation_fault.arm(1 << 20, passed);
    try {
      const JsonText json(text);
      EXPECT_TRUE(json.ok() || json.error() == simdjson::MEMALLOC) << passed;
    } catch (const std::bad_alloc&) {
    }
    allocation_fault.disarm();
    EXPECT_TRUE(is_json(text)) << passed;
    EXPECT_TRUE(is_json("{}")) << passed;
  }
}

std::string nested(size_t depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

TEST(JsonText, RefusesWhatIsNoJson) {
  using namespace std::string_view_literals;
  for (const std::string_view text : {""sv,
                                      " "sv,
                                      "{} x"sv,
                                      "{}{}"sv,
                                      "{}\0"sv,
                                      "{}\xff"sv,
                                      "\xEF\xBB\xBF{}"sv,
                                      "{\"a\":NaN}"sv,
                                      "{\"a\":Infinity}"sv,
                                      "{\"a\":-Infinity}"sv,
                                      "{\"a\":tru}"sv,
                                      "{\"a\":truex}"sv,
                                      "{\"a\":1e400}"sv,
                                      "{\"a\":-1e400}"sv,
                                      "{\"a\":123456789012345678901234}"sv,
                                      "{\"a\":01}"sv,
                                      "{\"a\":+1}"sv,
                                      "{\"a\":1.}"sv,
                                      "{\"a\":.5}"sv,
                                      "{\"a\":-}"sv,
                                      "{\"a\":1e}"sv,
                                      "{\"a\":0x1}"sv,
                                      "{\"a\":1,}"sv,
                                      "{,}"sv,
                                      "[1,]"sv,
                                      "{a:1}"sv,
                                      "{'a':1}"sv,
                                      "{\"a\"}"sv,
                                      "{\"a\":}"sv,
                                      "{\"a\":\"\x01\"}"sv,
                                      "{\"a\":\"\0\"}"sv,
                                      "{\"a\":\"\n\"}"sv,
                                      "{\"a\":\"\xff\"}"sv,
                                      "{\"a\":\"\xc0\x80\"}"sv,
                                      "{\"a\":\"\xed\xa0\x80\"}"sv,
                                      "{\"a\":\"\xf4\x90\x80\x80\"}"sv,
                                      "{\"a\":\"\\ud800\"}"sv,
                                      "{\"a\":\"\\udc00\"}"sv,
                                      "{\"a\":\"\\ud800\\ud800\"}"sv,
                                      "{\"a\":\"\\ud800x\"}"sv,
                                      "{\"\\ud800\":1}"sv,
                                      "{\"a\":\"\\x41\"}"sv,
                                      "{\"a\":\"\\u00g0\"}"sv,
                                      "{\"a\":\"x}"sv,
                                      "{/**/}"sv,
                                      "{\"a\":\x0b 1}"sv,
                                      "{"sv,
                                      "[1"sv}) {
    EXPECT_FALSE(is_json(text)) << text;
  }
  EXPECT_FALSE(is_json(nested(65)));
}

TEST(JsonText, TakesWhatIsJson) {
  for (const std::string_view text :
       {"{}", " \t\r\n{} \n", "[]", "null", "7", "\"x\"", "{\"a\":1e-7}",
        "{\"a\":18446744073709551615}", "{\"a\":\"\\ud83d\\ude00\"}",
        "{\"a\":\"\xF0\x9F\x98\x80\"}", "{\"a\":\"\\u0000\"}", "{\"a\":1,\"a\":2}"}) {
    EXPECT_TRUE(is_json(text)) << text;
  }
  EXPECT_TRUE(is_json(nested(64)));
}

TEST(JsonText, ReadsTextsOfAllSizesInTurn) {
  for (const size_t size : {10U, 5000U, 3U, 3'000'000U, 10U, 100'000U, 1U}) {
    const std::string text = "{\"a\":\"" + std::string(size, 'x') + "\"}";
    const JsonText json(text);
    ASSERT_TRUE(json.ok());
    EXPECT_EQ(std::string_view(json.root()["a"]).size(), size);
  }
}

TEST(ReadCount, WholeNumbersUpToTheBound) {
  const struct {
    std::string_view text;
    std::optional<int64_t> count;
  } cases[] = {
      {"0", 0},
      {"-0", 0},
      {"7", 7},
      {"7.0", 7},
      {"70e-1", 7},
      {"0.0", 0},
      {"-0.0", 0},
      {"9007199254740992", kCountMax},
      {"4294967296", 4294967296},
      {"9007199254740992.0", kCountMax},
      {"9007199254740993", std::nullopt},
      {"1e16", std::nullopt},
      {"-1", std::nullopt},
      {"-1.0", std::nullopt},
      {"7.5", std::nullopt},
      {"1e-9", std::nullopt},
      {"18446744073709551615", std::nullopt},
      {"\"7\"", std::nullopt},
      {"null", std::nullopt},
      {"true", std::nullopt},
      {"[7]", std::nullopt},
  };
  for (const auto& c : cases) {
    const JsonText json(c.text);
    ASSERT_TRUE(json.ok()) << c.text;
    EXPECT_EQ(read_count(json.root()), c.count) << c.text;
  }
}

TEST(ReadFigure, NeedsBothCountsOnce) {
  const struct {
    std::string_view text;
    std::optional<Figure> figure;
  } cases[] = {
      {R"({"p":1,"c":2})", Figure{1, 2}},
      {R"({"c":2,"x":{"p":5},"p":1})", Figure{1, 2}},
      {R"({"p":0,"c":0})", Figure{0, 0}},
      {R"({"p":1})", std::nullopt},
      {R"({"c":1})", std::nullopt},
      {R"({"p":1,"c":2,"c":2})", std::nullopt},
      {R"({"p":1,"p":1,"c":2})", std::nullopt},
      {R"({"p":1,"c":null})", std::nullopt},
      {R"({})", std::nullopt},
      {R"([1,2])", std::nullopt},
      {R"("x")", std::nullopt},
  };
  for (const auto& c : cases) {
    const JsonText json(c.text);
    ASSERT_TRUE(json.ok()) << c.text;
    EXPECT_EQ(read_figure(json.root(), "p", "c"), c.figure) << c.text;
  }
}

TEST(IsTruthy, AsJavaScript) {
  for (const char* text : {"null", "false", "0", "0.0", "\"\""}) {
    EXPECT_FALSE(is_truthy(JsonText(text).root())) << text;
  }
  for (const char* text : {"true", "1", "-0.5", "18446744073709551615", "\"x\"", "{}", "[]"}) {
    EXPECT_TRUE(is_truthy(JsonText(text).root())) << text;
  }
}

}  // namespace
}  // namespace llmproxy
