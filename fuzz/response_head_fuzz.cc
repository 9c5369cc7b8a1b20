// Response heads: properties of head_properties.h, and what a status line may be.
#include "head_properties.h"

namespace llmproxy::http {
namespace {

void check_response(std::string_view text, const ResponseHead& head) {
  const std::string_view line = check_lines(text, head.headers);
  LLMPROXY_CHECK(text.starts_with("HTTP/"));  // no empty line before it
  LLMPROXY_CHECK(head.status >= 100 && head.status <= 599);
  const std::string start =
      "HTTP/1." + std::to_string(head.minor_version) + " " + std::to_string(head.status);
  LLMPROXY_CHECK(line == start || line.starts_with(start + " "));
  const bool has_no_body = head.status < 200 || head.status == 204 || head.status == 304;
  LLMPROXY_CHECK(head.has_no_body == has_no_body);
  // Kept only where the end of the body is told.
  const bool is_delimited = has_no_body || head.is_chunked || head.content_length;
  LLMPROXY_CHECK(is_delimited || !head.keep_alive);
  for (const std::string_view value : values_of(head.headers, "connection")) {
    if (lower(value) == "close") LLMPROXY_CHECK(!head.keep_alive);
  }
}

}  // namespace
}  // namespace llmproxy::http

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace llmproxy::http;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  constexpr HeadLimits kSmall{.head_bytes_max = 256, .headers_max = 4, .target_bytes_max = 64};
  check_head<ResponseHead>(input, HeadLimits{}, parse_response_head, check_response);
  check_head<ResponseHead>(input, kSmall, parse_response_head, check_response);
  return 0;
}
