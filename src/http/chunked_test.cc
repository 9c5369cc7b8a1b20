// The chunked decoder over a table of bodies, each whole, byte by byte and split at every offset:
// payload, verdict and what is left over must be the same.
#include "http/chunked.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace llmproxy::http {
namespace {

using namespace std::string_literals;
using namespace std::string_view_literals;

enum class Verdict { kIncomplete, kDone, kInvalid };

struct Outcome {
  Verdict verdict = Verdict::kIncomplete;
  std::string payload;
  size_t consumed = 0;
  std::string_view reason{};

  bool operator==(const Outcome&) const = default;
};

// Feeds `bytes` in pieces that end at `cuts`; each piece lies in a block of its own.
Outcome decode(std::string_view bytes, const std::vector<size_t>& cuts) {
  ChunkedDecoder decoder;
  Outcome outcome;
  size_t begin = 0;
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const size_t end = i < cuts.size() ? cuts[i] : bytes.size();
    const std::string_view before = bytes.substr(begin, end - begin);
    std::vector<char> piece(before.begin(), before.end());
    const ChunkedDecoder::Step step = decoder.decode(piece.data(), piece.size());
    EXPECT_LE(step.payload, step.consumed);
    EXPECT_LE(step.consumed, piece.size());
    EXPECT_TRUE(step.is_done || step.is_invalid || step.consumed == piece.size());
    // What follows the body is untouched.
    EXPECT_TRUE(std::equal(piece.begin() + static_cast<std::ptrdiff_t>(step.consumed), piece.end(),
                           before.begin() + static_cast<std::ptrdiff_t>(step.consumed)));
    outcome.payload.append(piece.data(), step.payload);
    outcome.consumed += step.consumed;
    outcome.reason = step.reason;
    if (step.is_invalid) outcome.verdict = Verdict::kInvalid;
    if (step.is_done) outcome.verdict = Verdict::kDone;
    EXPECT_FALSE(step.is_done && step.is_invalid);
    EXPECT_EQ(step.is_invalid, !step.reason.empty());
    begin = end;
  }
  return outcome;
}

Outcome decode_everyhow(const char* name, std::string_view bytes) {
  const Outcome whole = decode(bytes, {});
  std::vector<size_t> every_byte;
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    EXPECT_EQ(decode(bytes, {cut}), whole) << name << " split at " << cut;
    every_byte.push_back(cut);
  }
  EXPECT_EQ(decode(bytes, every_byte), whole) << name << " byte by byte";
  return whole;
}

struct Case {
  const char* name;
  std::string_view bytes;
  Verdict verdict;
  std::string_view payload;
  size_t left = 0;  // bytes after the end, or from the byte at fault on
};

constexpr Verdict kDone = Verdict::kDone;
constexpr Verdict kInvalid = Verdict::kInvalid;
constexpr Verdict kIncomplete = Verdict::kIncomplete;

constexpr Case kCases[] = {
    {"nothing", "", kIncomplete, ""},
    {"empty body", "0\r\n\r\n", kDone, ""},
    {"empty body, many zeros", "0000000000000000\r\n\r\n", kDone, ""},
    {"one chunk", "5\r\nhello\r\n0\r\n\r\n", kDone, "hello"},
    {"three chunks", "1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", kDone, "abcdef"},
    {"hexadecimal in both cases", "a\r\n0123456789\r\nA\r\nabcdefghij\r\n0\r\n\r\n", kDone,
     "0123456789abcdefghij"},
    {"leading zeros", "0005\r\nhello\r\n0\r\n\r\n", kDone, "hello"},
    {"sixteen digits", "0000000000000005\r\nhello\r\n0\r\n\r\n", kDone, "hello"},
    {"payload of line ends", "4\r\n\r\n\r\n\r\n0\r\n\r\n", kDone, "\r\n\r\n"},
    {"payload with NUL", "3\r\n\0\0\0\r\n0\r\n\r\n"sv, kDone, "\0\0\0"sv},
    {"the next request follows", "1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n", kDone, "a", 16},
    {"a CRLF follows", "0\r\n\r\n\r\n", kDone, "", 2},
    {"cut in the size", "5", kIncomplete, ""},
    {"cut in the payload", "5\r\nhel", kIncomplete, "hel"},
    {"cut before the end", "5\r\nhello\r\n0\r\n\r", kIncomplete, "hello"},
    {"the largest size", "ffffffffffffffff\r\nabc", kIncomplete, "abc"},

    {"seventeen digits", "10000000000000000\r\n", kInvalid, "", 3},
    {"seventeen digits, zeros", "00000000000000001\r\n", kInvalid, "", 3},
    {"0x", "0x5\r\nhello\r\n0\r\n\r\n", kInvalid, "", 16},
    {"underscore", "1_0\r\n", kInvalid, "", 4},
    {"plus", "+5\r\n", kInvalid, "", 4},
    {"minus", "-5\r\n", kInvalid, "", 4},
    {"no size", "\r\nhello", kInvalid, "", 7},
    {"no size, extension", ";a\r\n", kInvalid, "", 4},
    {"no digit", "g\r\n", kInvalid, "", 3},
    {"point", "5.0\r\n", kInvalid, "", 4},
    {"h", "5h\r\nhello\r\n", kInvalid, "", 10},
    {"blank before the size", " 5\r\n", kInvalid, "", 4},
    {"tab before the size", "\t5\r\n", kInvalid, "", 4},
    {"blank after the size", "5 \r\n", kInvalid, "", 3},
    {"tab after the size", "5\t\r\n", kInvalid, "", 3},
    {"blank before the extension", "5 ;a\r\n", kInvalid, "", 5},
    {"NUL after the size", "5\0\r\n"sv, kInvalid, "", 3},
    {"bare LF after the size", "5\nhello\r\n0\r\n\r\n", kInvalid, "", 13},
    {"bare CR after the size", "5\rhello\r\n0\r\n\r\n", kInvalid, "", 12},
    {"CR CR LF after the size", "5\r\r\nhello", kInvalid, "", 7},
    {"LF CR after the size", "5\n\rhello", kInvalid, "", 7},
    {"bare LF after the payload", "5\r\nhello\n0\r\n\r\n", kInvalid, "hello", 6},
    {"bare CR after the payload", "5\r\nhello\r0\r\n\r\n", kInvalid, "hello", 5},
    {"nothing after the payload", "5\r\nhello0\r\n\r\n", kInvalid, "hello", 5},
    {"payload longer than its size", "5\r\nhello!\r\n0\r\n\r\n", kInvalid, "hello", 8},
    {"payload shorter than its size", "5\r\nhell\r\n0\r\n\r\n", kInvalid, "hell\r", 6},
    {"spill of two bytes", "3\r\nabc\r\n2\r\nabXX0\r\n\r\n", kInvalid, "abcab", 7},
    {"bare LF after the last chunk", "0\n\r\n", kInvalid, "", 3},
    {"bare LF ends the body", "0\r\n\n", kInvalid, "", 1},
    {"bare CR ends the body", "0\r\n\rX", kInvalid, "", 1},

    {"extension", "5;a\r\nhello\r\n0\r\n\r\n", kDone, "hello"},
    {"extension with value", "5;a=b\r\nhello\r\n0;c\r\n\r\n", kDone, "hello"},
    {"extension with blanks", "5; a = b\r\nhello\r\n0\r\n\r\n", kDone, "hello"},
    {"quoted extension", "5;a=\"b;\\\"\t ;\";c\r\nhello\r\n0\r\n\r\n", kDone, "hello"},
    {"extension without name", "5;\r\nhello", kInvalid, "", 7},
    {"extension of blanks", "5; \r\nhello", kInvalid, "", 7},
    {"second extension without name", "5;a;\r\nhello", kInvalid, "", 7},
    {"extension name no token", "5;=b\r\n", kInvalid, "", 4},
    {"open quotes", "5;a=\"b\r\nhello", kInvalid, "", 7},
    {"escape, then CR", "5;a=\"b\\\r\n\"\r\n", kInvalid, "", 5},
    {"bare LF in an extension", "5;a\nhello", kInvalid, "", 6},
    {"bare CR in an extension", "5;a\rhello", kInvalid, "", 5},
    {"LF in quotes", "5;a=\"\n\"\r\n", kInvalid, "", 4},
    {"NUL in an extension", "5;a\0\r\n"sv, kInvalid, "", 3},
    {"control in an extension", "5;a\x01\r\n", kInvalid, "", 3},

    {"trailer", "0\r\nX: y\r\n\r\n", kDone, ""},
    {"trailers that must not be believed",
     "1\r\na\r\n0\r\nHost: b\r\nAuthorization: c\r\nContent-Length: 7\r\n"
     "Transfer-Encoding: gzip\r\n\r\nrest",
     kDone, "a", 4},
    {"trailer with empty value", "0\r\nX:\r\n\r\n", kDone, ""},
    {"trailer with obs-text", "0\r\nX: \xff\r\n\r\n", kDone, ""},
    {"folded trailer", "0\r\nX: y\r\n z\r\n\r\n", kInvalid, "", 6},
    {"trailer without name", "0\r\n: y\r\n\r\n", kInvalid, "", 7},
    {"trailer without colon", "0\r\nX\r\n\r\n", kInvalid, "", 4},
    {"a request in the place of trailers", "0\r\nGET / HTTP/1.1\r\n\r\n", kInvalid, "", 15},
    {"trailer, blank before the colon", "0\r\nX : y\r\n\r\n", kInvalid, "", 8},
    {"bare LF in a trailer", "0\r\nX: y\n\r\n", kInvalid, "", 3},
    {"bare CR in a trailer", "0\r\nX: y\rz\r\n\r\n", kInvalid, "", 5},
    {"NUL in a trailer", "0\r\nX: \0\r\n\r\n"sv, kInvalid, "", 5},
};

TEST(ChunkedDecoder, table) {
  for (const Case& c : kCases) {
    const Outcome outcome = decode_everyhow(c.name, c.bytes);
    EXPECT_EQ(outcome.verdict, c.verdict) << c.name;
    EXPECT_EQ(outcome.payload, c.payload) << c.name;
    EXPECT_EQ(c.bytes.size() - outcome.consumed, c.left) << c.name;
  }
}

TEST(ChunkedDecoder, bound_of_one_extension) {
  const auto body = [](size_t bytes) { return "0;" + std::string(bytes - 1, 'a') + "\r\n\r\n"; };
  EXPECT_EQ(decode(body(ChunkedDecoder::kExtensionBytesMax), {}).verdict, kDone);
  EXPECT_EQ(decode(body(ChunkedDecoder::kExtensionBytesMax + 1), {}).verdict, kInvalid);
  EXPECT_EQ(decode("0;" + std::string(ChunkedDecoder::kExtensionBytesMax, ' '), {}).verdict,
            kInvalid);
}

TEST(ChunkedDecoder, bound_of_all_extensions) {
  constexpr size_t kEach = 256;
  const std::string chunk = "1;" + std::string(kEach - 1, 'a') + "\r\nx\r\n";
  std::string body;
  for (size_t i = 0; i < ChunkedDecoder::kExtensionBytesFree / kEach; ++i) body += chunk;
  const std::string last = "0;" + std::string(ChunkedDecoder::kExtensionBytesFree / kEach - 1, 'a');
  EXPECT_EQ(decode(body + "0\r\n\r\n", {}).verdict, kDone);
  EXPECT_EQ(decode(body + last + "\r\n\r\n", {}).verdict, kDone);
  EXPECT_EQ(decode(body + last + "a\r\n\r\n", {}).verdict, kInvalid);
}

TEST(ChunkedDecoder, a_long_body_may_tag_each_chunk) {
  // As signed chunks are: 85 bytes of extension each.
  const std::string chunk =
      "55;chunk-signature=" + std::string(69, '0') + "\r\n" + std::string(0x55, 'x') + "\r\n";
  std::string body;
  for (int i = 0; i < 10'000; ++i) body += chunk;
  EXPECT_EQ(decode(body + "0\r\n\r\n", {}).verdict, kDone);
}

TEST(ChunkedDecoder, bound_of_all_trailers) {
  // Their lines, but not the empty one, count with their line ends.
  const auto body = [](size_t bytes) {
    return "0\r\nA: b\r\nX: " + std::string(bytes - 11, 'a') + "\r\n\r\n";
  };
  EXPECT_EQ(decode(body(ChunkedDecoder::kTrailerBytesMax), {}).verdict, kDone);
  EXPECT_EQ(decode(body(ChunkedDecoder::kTrailerBytesMax + 1), {}).verdict, kInvalid);
}

TEST(ChunkedDecoder, takes_nothing_after_its_end) {
  for (const char* body : {"1\r\na\r\n0\r\n\r\n", "1\r\na\n"}) {
    ChunkedDecoder decoder;
    std::string bytes = body;
    const ChunkedDecoder::Step first = decoder.decode(bytes.data(), bytes.size());
    EXPECT_EQ(first.payload, 1U);
    bytes = "1\r\nb\r\n";
    const ChunkedDecoder::Step second = decoder.decode(bytes.data(), bytes.size());
    EXPECT_EQ(second.payload, 0U);
    EXPECT_EQ(second.consumed, 0U);
    EXPECT_EQ(second.is_done, first.is_done);
    EXPECT_EQ(second.is_invalid, first.is_invalid);
    EXPECT_EQ(second.reason, first.reason);
    EXPECT_EQ(bytes, "1\r\nb\r\n");
    decoder.reset();
    EXPECT_EQ(decoder.decode(bytes.data(), bytes.size()).payload, 1U);
  }
}

TEST(ChunkHead, written_as_read) {
  struct {
    size_t size;
    const char* head;
  } constexpr kHeads[] = {
      {1, "1\r\n"},
      {15, "f\r\n"},
      {16, "10\r\n"},
      {0xdeadbeef, "deadbeef\r\n"},
      {std::numeric_limits<size_t>::max(), "ffffffffffffffff\r\n"},
  };
  for (const auto& c : kHeads) {
    char out[kChunkHeadMax];
    EXPECT_EQ(std::string(out, write_chunk_head(out, c.size)), c.head);
  }
  for (const size_t size : {1U, 9U, 10U, 255U, 256U, 4095U, 65536U}) {
    char out[kChunkHeadMax];
    const std::string payload(size, 'p');
    const std::string body =
        std::string(out, write_chunk_head(out, size)) + payload + "\r\n0\r\n\r\n";
    const Outcome outcome = decode(body, {});
    EXPECT_EQ(outcome.verdict, kDone);
    EXPECT_EQ(outcome.payload, payload);
  }
}

}  // namespace
}  // namespace llmproxy::http
