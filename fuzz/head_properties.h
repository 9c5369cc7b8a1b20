// What must hold of every verdict on a head, request or response, whatever the bytes. The checks
// read the bytes anew in the plainest way and share no code with the parser.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "http/head.h"

namespace llmproxy::http {

// A copy in a block of exactly its size, so that AddressSanitizer sees each read beyond it.
class ExactBytes {
 public:
  explicit ExactBytes(std::string_view bytes)
      : size_(bytes.size()), data_(std::make_unique<char[]>(bytes.size())) {
    std::copy(bytes.begin(), bytes.end(), data_.get());
  }
  std::string_view view() const { return {data_.get(), size_}; }

 private:
  size_t size_;
  std::unique_ptr<char[]> data_;
};

inline bool lies_in(std::string_view part, std::string_view whole) {
  return part.empty() ||
         (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

inline bool is_token(std::string_view text) {
  return !text.empty() && text.find_first_not_of(
                              "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                              "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == std::string_view::npos;
}

inline bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<uint8_t>(c);
    return (byte < 0x20 && byte != '\t') || byte == 0x7f;
  });
}

inline std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

inline std::string_view without_blanks(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

inline std::vector<std::string_view> values_of(const std::vector<Header>& headers,
                                               std::string_view name) {
  std::vector<std::string_view> values;
  for (const Header& header : headers) {
    if (lower(header.name) == name) values.push_back(header.value);
  }
  return values;
}

// The headers are the lines between the first and the empty one, in order; returns the first line.
inline std::string_view check_lines(std::string_view text, const std::vector<Header>& headers) {
  if (text.starts_with("\r\n")) text.remove_prefix(2);
  LLMPROXY_CHECK(text.ends_with("\r\n\r\n"));
  const std::string_view first = text.substr(0, text.find("\r\n"));
  LLMPROXY_CHECK(!has_control(first));
  text.remove_prefix(first.size() + 2);
  for (const Header& header : headers) {
    const std::string_view line = text.substr(0, text.find("\r\n"));
    const size_t colon = line.find(':');
    LLMPROXY_CHECK(colon != std::string_view::npos);
    LLMPROXY_CHECK(header.name == line.substr(0, colon) && is_token(header.name));
    LLMPROXY_CHECK(header.value == without_blanks(line.substr(colon + 1)));
    LLMPROXY_CHECK(!has_control(line));
    text.remove_prefix(line.size() + 2);
  }
  LLMPROXY_CHECK(text == "\r\n");
  return first;
}

template <class Head>
void check_framing(const Head& head) {
  const auto lengths = values_of(head.headers, "content-length");
  const auto codings = values_of(head.headers, "transfer-encoding");
  LLMPROXY_CHECK(lengths.size() + codings.size() <= 1);
  LLMPROXY_CHECK(head.content_length.has_value() == (lengths.size() == 1));
  LLMPROXY_CHECK(head.is_chunked == (codings.size() == 1));
  if (head.is_chunked) LLMPROXY_CHECK(lower(codings[0]) == "chunked" && head.minor_version == 1);
  if (!head.content_length) return;
  std::string digits(lengths[0]);
  LLMPROXY_CHECK(!digits.empty() && digits.size() <= 19);
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size() - 1));
  LLMPROXY_CHECK(digits == std::to_string(*head.content_length));
}

template <class Head>
void check_done(std::string_view bytes, const ParseResult& result, const HeadLimits& limits,
                const Head& head) {
  LLMPROXY_CHECK(result.consumed <= bytes.size() && result.consumed <= limits.head_bytes_max);
  LLMPROXY_CHECK(head.headers.size() <= limits.headers_max);
  const std::string_view text = bytes.substr(0, result.consumed);
  for (const Header& header : head.headers) {
    LLMPROXY_CHECK(lies_in(header.name, text) && lies_in(header.value, text));
  }
  LLMPROXY_CHECK(head.minor_version == 0 || head.minor_version == 1);
  check_framing(head);
}

// Whoever waits for more must be able to get it: no end in sight, no line that can never end well.
inline void check_incomplete(std::string_view bytes, const HeadLimits& limits) {
  LLMPROXY_CHECK(bytes.size() < limits.head_bytes_max);
  LLMPROXY_CHECK(bytes.find("\r\n\r\n") == std::string_view::npos);
  for (size_t at = bytes.find('\n'); at != std::string_view::npos; at = bytes.find('\n', at + 1)) {
    LLMPROXY_CHECK(at > 0 && bytes[at - 1] == '\r');
  }
}

inline bool are_equal(const std::vector<Header>& a, const std::vector<Header>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Header& x, const Header& y) {
    return x.name == y.name && x.value == y.value;
  });
}

// `parse(bytes, limits, head)`; `check_values(text, head)` for what only requests or responses
// have.
template <class Head, class Parser, class CheckValues>
void check_head(std::string_view input, const HeadLimits& limits, Parser parse,
                CheckValues check_values) {
  const ExactBytes whole(input);
  Head head;
  const ParseResult result = parse(whole.view(), limits, head);
  if (result.state == Parse::kDone) {
    check_done(whole.view(), result, limits, head);
    check_values(whole.view().substr(0, result.consumed), head);
  } else {
    LLMPROXY_CHECK(result.consumed == 0 && head.headers.empty());
    LLMPROXY_CHECK((result.state == Parse::kInvalid) == !result.reason.empty());
  }
  if (result.state == Parse::kIncomplete) check_incomplete(whole.view(), limits);

  // A part is never done with something else, and refused only as the whole is.
  constexpr size_t kCutsMax = 16;  // spread over the input: every cut would cost too many runs
  const size_t step = input.size() / kCutsMax + 1;
  for (size_t cut = input.size() % step; cut < input.size(); cut += step) {
    const ExactBytes part(input.substr(0, cut));
    Head part_head;
    const ParseResult part_result = parse(part.view(), limits, part_head);
    if (result.state == Parse::kDone && cut >= result.consumed) {
      LLMPROXY_CHECK(part_result.state == Parse::kDone);
      LLMPROXY_CHECK(part_result.consumed == result.consumed);
      LLMPROXY_CHECK(are_equal(part_head.headers, head.headers));
    } else if (part_result.state == Parse::kInvalid) {
      LLMPROXY_CHECK(result.state == Parse::kInvalid && part_result.status == result.status);
    } else {
      LLMPROXY_CHECK(part_result.state == Parse::kIncomplete);
      check_incomplete(part.view(), limits);
    }
  }
}

}  // namespace llmproxy::http
