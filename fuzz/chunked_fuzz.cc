// Chunked bodies: the input whole, byte by byte and in pieces of changing size must give the same;
// what is done must be what a plain line reader finds; and any payload, written as chunks, must
// come back.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/check.h"
#include "http/chunked.h"

namespace llmproxy::http {
namespace {

struct Outcome {
  bool is_done = false;
  bool is_invalid = false;
  size_t consumed = 0;
  std::string payload;

  bool operator==(const Outcome&) const = default;
};

// `piece_size(i)` bytes at a time, each piece in a block of exactly its size.
template <class PieceSize>
Outcome decode(std::string_view bytes, PieceSize piece_size) {
  ChunkedDecoder decoder;
  Outcome outcome;
  for (size_t i = 0; !bytes.empty() && !outcome.is_done && !outcome.is_invalid; ++i) {
    const size_t size = std::min<size_t>(piece_size(i), bytes.size());
    const auto piece = std::make_unique<char[]>(size);
    std::copy_n(bytes.begin(), size, piece.get());
    const ChunkedDecoder::Step step = decoder.decode(piece.get(), size);
    LLMPROXY_CHECK(step.payload <= step.consumed && step.consumed <= size);
    LLMPROXY_CHECK(!(step.is_done && step.is_invalid));
    LLMPROXY_CHECK(step.is_done || step.is_invalid || step.consumed == size);
    LLMPROXY_CHECK(std::string_view(piece.get(), size).substr(step.consumed) ==
                   bytes.substr(step.consumed, size - step.consumed));
    outcome.payload.append(piece.get(), step.payload);
    outcome.consumed += step.consumed;
    outcome.is_done = step.is_done;
    outcome.is_invalid = step.is_invalid;
    bytes.remove_prefix(size);
  }
  return outcome;
}

bool is_of(std::string_view text, std::string_view characters) {
  return text.find_first_not_of(characters) == std::string_view::npos;
}

constexpr std::string_view kToken =
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

bool is_text(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<uint8_t>(c);
    return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
  });
}

// What follows the digits of a size: nothing, or extensions.
bool are_extensions(std::string_view text) {
  if (!is_text(text)) return false;
  while (!text.empty()) {
    if (text.front() != ';') return false;
    text.remove_prefix(std::min(text.find_first_not_of(" \t", 1), text.size()));
    if (text.empty() || !is_of(text.substr(0, 1), kToken)) return false;
    bool is_quoted = false;
    size_t end = 0;
    for (; end < text.size() && (is_quoted || text[end] != ';'); ++end) {
      if (text[end] == '"') is_quoted = !is_quoted;
      if (is_quoted && text[end] == '\\' && ++end == text.size()) return false;
    }
    if (is_quoted) return false;
    text.remove_prefix(end);
  }
  return true;
}

// The next line without its CRLF, which it takes; nothing if there is none.
std::optional<std::string_view> take_line(std::string_view& bytes) {
  const size_t end = bytes.find("\r\n");
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = bytes.substr(0, end);
  bytes.remove_prefix(end + 2);
  return line;
}

bool take_trailers(std::string_view& bytes) {
  size_t total = 0;
  while (const auto line = take_line(bytes)) {
    if (line->empty()) return true;
    const size_t colon = line->find(':');
    if (colon == 0 || colon == std::string_view::npos) return false;
    if (!is_of(line->substr(0, colon), kToken) || !is_text(*line)) return false;
    total += line->size() + 2;
    if (total > ChunkedDecoder::kTrailerBytesMax) return false;
  }
  return false;
}

// The payload and length of a whole body; nothing if it is none.
std::optional<Outcome> read_plainly(std::string_view bytes) {
  const size_t size = bytes.size();
  Outcome outcome;
  outcome.is_done = true;
  size_t extensions = 0;
  while (const auto line = take_line(bytes)) {
    const size_t digits = std::min(line->find_first_not_of("0123456789abcdefABCDEF"), line->size());
    const size_t extension = line->size() - digits;
    extensions += extension;
    if (digits == 0 || digits > 16 || !are_extensions(line->substr(digits))) return std::nullopt;
    if (extension > ChunkedDecoder::kExtensionBytesMax) return std::nullopt;
    if (extensions > ChunkedDecoder::kExtensionBytesFree + outcome.payload.size()) {
      return std::nullopt;
    }
    const uint64_t length = std::stoull(std::string(line->substr(0, digits)), nullptr, 16);
    if (length == 0) {
      if (!take_trailers(bytes)) return std::nullopt;
      outcome.consumed = size - bytes.size();
      return outcome;
    }
    if (bytes.size() < 2 || length > bytes.size() - 2) return std::nullopt;
    outcome.payload += bytes.substr(0, length);
    bytes.remove_prefix(length);
    const auto rest = take_line(bytes);
    if (!rest || !rest->empty()) return std::nullopt;
  }
  return std::nullopt;
}

void check_input(std::string_view input) {
  const Outcome whole = decode(input, [&](size_t) { return input.size(); });
  LLMPROXY_CHECK(decode(input, [](size_t) { return size_t{1}; }) == whole);
  LLMPROXY_CHECK(decode(input, [](size_t i) { return 1 + (i * 7 + 3) % 13; }) == whole);
  LLMPROXY_CHECK(decode(input, [](size_t i) { return 1 + (i * i) % 101; }) == whole);
  constexpr size_t kCutsMax = 8;  // spread over the input
  const size_t step = input.size() / kCutsMax + 1;
  for (size_t cut = 1 + input.size() % step; cut < input.size(); cut += step) {
    LLMPROXY_CHECK(decode(input, [&](size_t i) { return i == 0 ? cut : input.size(); }) == whole);
  }
  const std::optional<Outcome> expected = read_plainly(input);
  LLMPROXY_CHECK(whole.is_done == expected.has_value());
  if (expected) LLMPROXY_CHECK(whole == *expected);
}

// Chunks of changing size around `payload`.
void check_round_trip(std::string_view payload) {
  std::string body;
  std::string_view rest = payload;
  for (size_t i = 0; !rest.empty(); ++i) {
    const std::string_view chunk = rest.substr(0, 1 + (i * 37) % 300);
    char head[kChunkHeadMax];
    body.append(head, write_chunk_head(head, chunk.size()));
    body.append(chunk).append("\r\n");
    rest.remove_prefix(chunk.size());
  }
  body += "0\r\n\r\n";
  const Outcome outcome = decode(body, [](size_t i) { return 1 + (i * 5) % 97; });
  LLMPROXY_CHECK(outcome.is_done && outcome.consumed == body.size());
  LLMPROXY_CHECK(outcome.payload == payload);
}

}  // namespace
}  // namespace llmproxy::http

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  llmproxy::http::check_input(input);
  llmproxy::http::check_round_trip(input);
  return 0;
}
