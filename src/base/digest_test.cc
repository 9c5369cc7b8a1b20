// Tests of base/digest.h against published vectors.
#include "base/digest.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <vector>

namespace llmproxy {
namespace {

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST(Sha256Test, PublishedVectors) {
  // The examples of FIPS 180-4.
  const std::pair<std::string, const char*> cases[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1'000'000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const auto& [text, hex] : cases) EXPECT_EQ(to_hex(sha256(text)), hex) << text.substr(0, 60);
}

TEST(Sha256Test, ManyThreadsAtOnce) {
  const Sha256 expected = sha256("abc");
  std::vector<int> wrong(4, 0);
  {
    std::vector<std::jthread> threads;
    for (int& count : wrong) {
      threads.emplace_back([&count, &expected] {
        for (int i = 0; i < 500; ++i) count += sha256("abc") != expected;
      });
    }
  }
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(RandomBytes, FillsAllAndNeverRepeats) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    std::array<uint8_t, 16> bytes{};
    random_bytes(bytes);
    EXPECT_TRUE(seen.insert(to_hex(bytes)).second);
  }
  // Each of 64 places is something else than 0 at least once in 64 tries.
  std::array<bool, 64> was_filled{};
  for (int i = 0; i < 64; ++i) {
    std::array<uint8_t, 64> bytes{};
    random_bytes(bytes);
    for (size_t at = 0; at < bytes.size(); ++at) was_filled[at] |= bytes[at] != 0;
  }
  EXPECT_EQ(std::count(was_filled.begin(), was_filled.end(), false), 0);
  random_bytes({});
}

TEST(Hex, ThereAndBack) {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  const std::string hex = to_hex(bytes_of(all));
  EXPECT_EQ(hex.substr(0, 8), "00010203");
  EXPECT_EQ(hex.substr(508), "feff");
  EXPECT_EQ(from_hex(hex), all);
  EXPECT_EQ(from_hex("AbCdEF"), "\xab\xcd\xef");
  EXPECT_EQ(from_hex(""), "");
}

TEST(Hex, RefusesAllElse) {
  for (const char* text :
       {"0", "abc", "0g", "g0", "0x", " 0", "0 ", "/0", ":0", "@0", "`0", "G0"}) {
    EXPECT_EQ(from_hex(text), std::nullopt) << text;
  }
}

TEST(Base64Url, PublishedVectors) {
  // RFC 4648 section 10, without padding; then the two letters that differ from plain base64.
  const std::pair<std::string_view, const char*> cases[] = {
      {"", ""},           {"f", "Zg"},          {"fo", "Zm8"},          {"foo", "Zm9v"},
      {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"}, {"\xfb\xff\xfe", "-__-"},
  };
  for (const auto& [text, encoded] : cases) EXPECT_EQ(to_base64url(bytes_of(text)), encoded);
  EXPECT_EQ(to_base64url(std::array<uint8_t, 64>{}).size(), 86U);
}

}  // namespace
}  // namespace llmproxy
