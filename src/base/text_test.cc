// Tests of base/text.h: the edges of UTF-8 and of its control characters.
#include "base/text.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace llmproxy {
namespace {

TEST(Utf8, LengthOfTheFirstCharacter) {
  const std::pair<std::string_view, size_t> cases[] = {
      {"", 0},
      {"a\xff", 1},
      {{"\0", 1}, 1},
      {"\x7f", 1},
      {"\x80", 0},
      {"\xc1\xbf", 0},  // overlong
      {"\xc2\x80", 2},
      {"\xdf\xbfz", 2},
      {"\xc2", 0},
      {"\xc2z", 0},
      {"\xe0\x9f\xbf", 0},  // overlong
      {"\xe0\xa0\x80", 3},
      {"\xed\x9f\xbf", 3},
      {"\xed\xa0\x80", 0},  // surrogate
      {"\xef\xbf\xbf", 3},
      {"\xe2\x82", 0},
      {"\xe2\x82z", 0},
      {"\xf0\x8f\xbf\xbf", 0},  // overlong
      {"\xf0\x90\x80\x80", 4},
      {"\xf4\x8f\xbf\xbf", 4},
      {"\xf4\x90\x80\x80", 0},  // above U+10FFFF
      {"\xf5\x80\x80\x80", 0},
      {"\xf0\x9f\x98", 0},
      {"\xf0\x9f\x98z", 0},
  };
  for (const auto& [text, length] : cases) EXPECT_EQ(utf8_length(text), length) << text;
}

TEST(PrintableLength, Table) {
  const std::pair<std::string, size_t> cases[] = {
      {"", 0},
      {" ", 1},
      {"~", 1},
      {"\x7f", 0},
      {"\n", 0},
      {std::string(1, '\0'), 0},
      {"\xc2\x80", 0},  // C1
      {"\xc2\x9f", 0},
      {"\xc2\xa0", 2},
      {"\xdf\xbf", 2},
      {"\xe0\xa0\x80", 3},
      {"\xf0\x9f\xa6\x99", 4},
      {"\xf4\x8f\xbf\xbf", 4},
      {"\x80", 0},
      {"\xc1\xbf", 0},          // overlong
      {"\xe0\x9f\xbf", 0},      // overlong
      {"\xf0\x8f\xbf\xbf", 0},  // overlong
      {"\xed\xa0\x80", 0},      // surrogate
      {"\xf4\x90\x80\x80", 0},  // above U+10FFFF
      {"\xc3", 0},              // cut
      {"\xe2\x82", 0},
      {"\xf0\x9f\xa6", 0},
      {"\xff", 0},
  };
  for (const auto& [text, length] : cases) EXPECT_EQ(printable_length(text), length) << text;
}

TEST(IsPrintable, LooksAtTheWholeText) {
  EXPECT_TRUE(is_printable(""));
  EXPECT_TRUE(is_printable("Zażółć 'x' \xF0\x9F\xA6\x99"));
  EXPECT_FALSE(is_printable("a\x1b[m"));
  EXPECT_FALSE(
      is_printable("Za\xc2\x9b"
                   "31m"));
  EXPECT_FALSE(is_printable("a\xff"));
  EXPECT_FALSE(is_printable(std::string_view("a\0b", 3)));
}

TEST(IsUtf8, LooksAtTheWholeText) {
  EXPECT_TRUE(is_utf8(""));
  EXPECT_TRUE(is_utf8(std::string_view("a\0\xc5\x82\n", 5)));
  EXPECT_FALSE(is_utf8("a\xff"));
  EXPECT_FALSE(is_utf8("a\xc5"));
}

TEST(ErrnoText, SaysWhatTheValueMeans) {
  EXPECT_EQ(errno_text(ENOSPC), "No space left on device");
  EXPECT_EQ(errno_text(12345), "Unknown error 12345");
}

// Wherever the first other byte lies: it is looked at many bytes at once.
TEST(PrintableAsciiLength, EndsAtTheFirstOtherByte) {
  for (size_t size = 0; size < 100; ++size) {
    EXPECT_EQ(printable_ascii_length(std::string(size, '~')), size);
    for (const char other : {'\x1f', '\x7f', '\x80', '\xff', '\0', '\n'}) {
      for (size_t at = 0; at < size; ++at) {
        std::string text(size, ' ');
        text[at] = other;
        ASSERT_EQ(printable_ascii_length(text), at) << size;
      }
    }
  }
}

}  // namespace
}  // namespace llmproxy
