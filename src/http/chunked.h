// Decoder of the chunked transfer coding (RFC 9112 section 7.1), in place: payload moves to the
// front of what was handed in. Strict: CRLF only, at most 16 hexadecimal digits, extensions and
// trailers bounded and thrown away.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace llmproxy::http {

class ChunkedDecoder {
 public:
  static constexpr size_t kExtensionBytesMax = 256;  // per chunk
  // In all, beside one for each byte of payload: servers that tag every chunk may do so for as long
  // as they like, and chunks of one byte with long tags come to their end.
  static constexpr size_t kExtensionBytesFree = 16384;
  static constexpr size_t kTrailerBytesMax = 8192;  // in all

  struct Step {
    size_t payload = 0;  // bytes of payload now at the front of `data`
    size_t consumed =
        0;  // bytes of `data` taken; the rest (only after the end) belongs to what follows
    bool is_done = false;  // the last chunk and the trailers were seen
    bool is_invalid = false;
    std::string_view reason{};  // static text
  };

  // Takes all of data[0, size) unless the body ends in it; the bytes after the end stay where they
  // are. Any split of the input gives the same payload. Invalid input stops at the byte at fault,
  // with the payload before it. Once done or invalid, further calls take nothing and say so again.
  Step decode(char* data, size_t size);

  void reset() { *this = ChunkedDecoder{}; }

 private:
  enum class State : uint8_t {
    kSize,
    kExtensionStart,  // after `;`
    kExtension,
    kExtensionQuoted,
    kExtensionEscape,  // after a backslash inside quotes
    kSizeLf,
    kPayload,
    kPayloadCr,
    kPayloadLf,
    kTrailerStart,  // of a line: a field, or the empty line that ends the body
    kTrailerName,
    kTrailerValue,
    kTrailerLf,
    kEndLf,
    kDone,
    kInvalid,
  };

  size_t take_plain_head(std::string_view bytes);
  State next(char c);
  State next_in_size(char c);
  State next_in_extension(char c);
  State next_in_trailers(char c);
  State refuse(std::string_view reason);

  State state_ = State::kSize;
  unsigned digits_ = 0;       // of the size being read
  uint64_t chunk_bytes_ = 0;  // the size being read, then what is left of the chunk
  size_t extension_bytes_ = 0;
  uint64_t extension_bytes_total_ = 0;
  uint64_t payload_bytes_ = 0;
  size_t trailer_bytes_ = 0;
  std::string_view reason_{};
};

// Room for the longest chunk head we write: 16 digits and CRLF.
constexpr size_t kChunkHeadMax = 18;
// Writes "SIZE\r\n" in lower-case hexadecimal; returns its length. `size` > 0.
size_t write_chunk_head(char* out, size_t size);

}  // namespace llmproxy::http
