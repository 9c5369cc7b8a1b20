// What is masked, what is not, and where nothing else changes.
#include "proxy/secret_mask.h"

#include <gtest/gtest.h>

#include <string>

namespace llmproxy {
namespace {

TEST(SecretMask, OverwritesInPlace) {
  const struct {
    std::string_view secret, text, masked;
  } cases[] = {
      {"sk-12345678", "", ""},
      {"sk-12345678", "no secret", "no secret"},
      {"sk-12345678", "sk-12345678", "***********"},
      {"sk-12345678", "a sk-12345678 b", "a *********** b"},
      {"sk-12345678", "sk-12345678sk-12345678", "**********************"},
      {"sk-12345678", "sk-1234567 sk-12345678", "sk-1234567 ***********"},
      {"aaaaaaaa", "aaaaaaaaaaaa", "********aaaa"},
      {"12345678", "x12345678", "x********"},
      {"1234567", "x1234567", "x1234567"},  // a placeholder
      {"EMPTY", "an EMPTY list", "an EMPTY list"},
      {"", "text", "text"},
  };
  for (const auto& c : cases) {
    std::string text(c.text);
    const SecretMask mask(c.secret);
    EXPECT_EQ(mask.is_in(text), c.text != c.masked);
    mask.apply(text.data(), text.size());
    EXPECT_EQ(text, c.masked);
  }
  EXPECT_EQ(SecretMask("12345678").overlap(), 7u);
  EXPECT_EQ(SecretMask("1234567").overlap(), 0u);
}

}  // namespace
}  // namespace llmproxy
