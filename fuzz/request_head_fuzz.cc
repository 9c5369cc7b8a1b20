// Request heads: properties of head_properties.h, and what a request line and its special fields
// may be.
#include "head_properties.h"

namespace llmproxy::http {
namespace {

void check_target(const RequestHead& head) {
  const std::string_view target = head.target;
  LLMPROXY_CHECK(!target.empty());
  for (const char c : target) LLMPROXY_CHECK(c > 0x20 && c < 0x7f && c != '#');
  LLMPROXY_CHECK(head.path.find('?') == std::string_view::npos);
  if (head.method == "CONNECT" || target == "*") {
    LLMPROXY_CHECK(head.path.empty());
    LLMPROXY_CHECK(head.method == "CONNECT" || head.method == "OPTIONS");
    return;
  }
  LLMPROXY_CHECK(head.path.starts_with('/'));
  const std::string_view before_query = target.substr(0, target.find('?'));
  if (target.starts_with('/')) {
    LLMPROXY_CHECK(head.path == before_query);
  } else {
    const std::string scheme = lower(target.substr(0, 8));
    LLMPROXY_CHECK(scheme.starts_with("http://") || scheme == "https://");
    LLMPROXY_CHECK(before_query.ends_with(head.path) || head.path == "/");
  }
}

void check_request(std::string_view text, const RequestHead& head) {
  const std::string_view line = check_lines(text, head.headers);
  const std::string minor = std::to_string(head.minor_version);
  LLMPROXY_CHECK(line ==
                 std::string(head.method) + " " + std::string(head.target) + " HTTP/1." + minor);
  LLMPROXY_CHECK(is_token(head.method) && head.method.size() <= 32);
  for (const std::string_view view : {head.method, head.target, head.path}) {
    LLMPROXY_CHECK(lies_in(view, text));
  }
  check_target(head);

  const auto hosts = values_of(head.headers, "host");
  LLMPROXY_CHECK(hosts.size() <= 1 && hosts.size() >= static_cast<size_t>(head.minor_version));
  for (const std::string_view host : hosts) {
    LLMPROXY_CHECK(!host.empty());
    LLMPROXY_CHECK(host.find_first_of(" \t/?#@\\\"<>^`{|}") == std::string_view::npos);
  }
  const auto expectations = values_of(head.headers, "expect");
  LLMPROXY_CHECK(expectations.size() <= 1);
  if (!expectations.empty()) LLMPROXY_CHECK(lower(expectations[0]) == "100-continue");
  LLMPROXY_CHECK(head.expects_continue == (!expectations.empty() && head.minor_version == 1));
  LLMPROXY_CHECK(head.wants_upgrade == !values_of(head.headers, "upgrade").empty());
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
  check_head<RequestHead>(input, HeadLimits{}, parse_request_head, check_request);
  check_head<RequestHead>(input, kSmall, parse_request_head, check_request);
  return 0;
}
