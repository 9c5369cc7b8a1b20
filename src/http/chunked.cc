// The chunked coding as a machine of one byte a step; payload alone is moved in blocks. It keeps
// nothing of extensions and trailers: nobody here may act on them.
#include "http/chunked.h"

#include <algorithm>
#include <cstring>

#include "base/hex.h"
#include "http/characters.h"

namespace llmproxy::http {
namespace {

constexpr unsigned kSizeDigitsMax = 16;

}  // namespace

ChunkedDecoder::Step ChunkedDecoder::decode(char* data, size_t size) {
  Step step;
  while (step.consumed < size && state_ != State::kDone && state_ != State::kInvalid) {
    if (state_ == State::kPayloadCr || state_ == State::kSize) {
      step.consumed += take_plain_head({data + step.consumed, size - step.consumed});
      if (step.consumed == size) break;
    }
    if (state_ != State::kPayload) {
      state_ = next(data[step.consumed]);
      if (state_ != State::kInvalid) ++step.consumed;
      continue;
    }
    const size_t length =
        static_cast<size_t>(std::min<uint64_t>(chunk_bytes_, size - step.consumed));
    if (step.payload != step.consumed) {
      std::memmove(data + step.payload, data + step.consumed, length);
    }
    step.payload += length;
    step.consumed += length;
    chunk_bytes_ -= length;
    payload_bytes_ += length;
    if (chunk_bytes_ == 0) state_ = State::kPayloadCr;
  }
  step.is_done = state_ == State::kDone;
  step.is_invalid = state_ == State::kInvalid;
  step.reason = reason_;
  return step;
}

// Nearly all heads are a few digits and CRLF, and came whole, with the CRLF of the chunk before
// them, and with payload behind them. Returns how many bytes of such a one there are, all of which
// it takes; 0 for any other, and for the last chunk's.
size_t ChunkedDecoder::take_plain_head(std::string_view bytes) {
  constexpr size_t kDigitsMax = 4, kHeadMax = 2 + kDigitsMax + 2;
  if (digits_ > 0 || bytes.size() < kHeadMax) return 0;
  const auto is_crlf = [](const char* at) { return at[0] == '\r' && at[1] == '\n'; };
  const char* at = bytes.data();
  if (state_ == State::kPayloadCr) {
    if (!is_crlf(at)) return 0;
    at += 2;
  }
  uint64_t chunk_bytes = 0;
  for (const char* const end = at + kDigitsMax; at < end; ++at) {
    const int digit = hex_value(*at);
    if (digit < 0) break;
    chunk_bytes = chunk_bytes << 4 | static_cast<uint64_t>(digit);
  }
  if (chunk_bytes == 0 || !is_crlf(at)) return 0;
  chunk_bytes_ = chunk_bytes;
  extension_bytes_ = 0;
  state_ = State::kPayload;
  return static_cast<size_t>(at + 2 - bytes.data());
}

ChunkedDecoder::State ChunkedDecoder::refuse(std::string_view reason) {
  reason_ = reason;
  return State::kInvalid;
}

ChunkedDecoder::State ChunkedDecoder::next(char c) {
  switch (state_) {
    case State::kSize:
      return next_in_size(c);
    case State::kSizeLf:
      if (c != '\n') return refuse("carriage return without line feed in a chunk size");
      digits_ = 0;
      extension_bytes_ = 0;
      return chunk_bytes_ == 0 ? State::kTrailerStart : State::kPayload;
    case State::kPayloadCr:
      return c == '\r' ? State::kPayloadLf : refuse("chunk longer than its size");
    case State::kPayloadLf:
      return c == '\n' ? State::kSize : refuse("chunk longer than its size");
    case State::kExtensionStart:
    case State::kExtension:
    case State::kExtensionQuoted:
    case State::kExtensionEscape:
      return next_in_extension(c);
    case State::kTrailerStart:
    case State::kTrailerName:
    case State::kTrailerValue:
    case State::kTrailerLf:
    case State::kEndLf:
      return next_in_trailers(c);
    case State::kPayload:
    case State::kDone:
    case State::kInvalid:
      break;  // decode() never asks
  }
  return State::kInvalid;
}

ChunkedDecoder::State ChunkedDecoder::next_in_size(char c) {
  const int digit = hex_value(c);
  if (digit >= 0) {
    if (++digits_ > kSizeDigitsMax) return refuse("chunk size too large");
    chunk_bytes_ = chunk_bytes_ << 4 | static_cast<uint64_t>(digit);
    return State::kSize;
  }
  if (digits_ == 0) return refuse("malformed chunk size");
  if (c == '\r') return State::kSizeLf;
  if (c == ';') return next_in_extension(c);
  return refuse("malformed chunk size");
}

// `;name`, `;name=value` or `;name="quoted"`: the names' and quotes' places are checked, the rest
// is not.
ChunkedDecoder::State ChunkedDecoder::next_in_extension(char c) {
  if (c == '\r' && state_ == State::kExtension) return State::kSizeLf;
  if (!is_in(c, kValueCharacter)) return refuse("malformed chunk extension");
  if (++extension_bytes_ > kExtensionBytesMax ||
      ++extension_bytes_total_ > kExtensionBytesFree + payload_bytes_) {
    return refuse("chunk extensions too large");
  }
  switch (state_) {
    case State::kExtensionStart:
      if (is_blank(c)) return State::kExtensionStart;
      return is_in(c, kTokenCharacter) ? State::kExtension : refuse("malformed chunk extension");
    case State::kExtensionQuoted:
      if (c == '\\') return State::kExtensionEscape;
      return c == '"' ? State::kExtension : State::kExtensionQuoted;
    case State::kExtensionEscape:
      return State::kExtensionQuoted;
    default:  // the size's `;`, or kExtension
      if (c == ';') return State::kExtensionStart;
      return c == '"' ? State::kExtensionQuoted : State::kExtension;
  }
}

ChunkedDecoder::State ChunkedDecoder::next_in_trailers(char c) {
  if (state_ == State::kEndLf) {
    return c == '\n' ? State::kDone : refuse("carriage return without line feed in trailers");
  }
  if (c == '\r' && state_ == State::kTrailerStart) return State::kEndLf;
  if (++trailer_bytes_ > kTrailerBytesMax) return refuse("trailers too large");
  switch (state_) {
    case State::kTrailerStart:
      return is_in(c, kTokenCharacter) ? State::kTrailerName : refuse("malformed trailer");
    case State::kTrailerName:
      if (c == ':') return State::kTrailerValue;
      return is_in(c, kTokenCharacter) ? State::kTrailerName : refuse("malformed trailer");
    case State::kTrailerValue:
      if (c == '\r') return State::kTrailerLf;
      return is_in(c, kValueCharacter) ? State::kTrailerValue : refuse("malformed trailer");
    default:  // kTrailerLf
      if (c == '\n') return State::kTrailerStart;
      return refuse("carriage return without line feed in trailers");
  }
}

size_t write_chunk_head(char* out, size_t size) {
  size_t digits = 1;
  while (digits < kSizeDigitsMax && size >> (4 * digits) != 0) ++digits;
  for (size_t i = digits; i-- > 0; size >>= 4) out[i] = "0123456789abcdef"[size & 0xf];
  out[digits] = '\r';
  out[digits + 1] = '\n';
  return digits + 2;
}

}  // namespace llmproxy::http
