// The two lists. Hop-by-hop fields, and those a Connection header names, are on none of them.
#include "proxy/header_rules.h"

#include <algorithm>
#include <array>
#include <span>

#include "http/characters.h"

namespace llmproxy {
namespace {

using http::Header;
using std::operator""sv;

constexpr std::array<std::string_view, 9> kToBackend = {
    "accept",      "user-agent", "openai-beta", "anthropic-version", "anthropic-beta",
    "traceparent", "tracestate", "baggage",     "accept-language",
};

constexpr std::array<std::string_view, 10> kToClient = {
    "content-type",   "content-encoding", "content-language",     "cache-control",  "retry-after",
    "retry-after-ms", "x-should-retry",   "openai-processing-ms", "openai-version", "openai-model",
};
constexpr std::string_view kRateLimitPrefix = "x-ratelimit-";

bool is_listed(std::span<const std::string_view> list, std::string_view name) {
  return std::ranges::any_of(
      list, [&](std::string_view entry) { return http::equals_ignoring_case(entry, name); });
}

bool is_rate_limit(std::string_view name) {
  return name.size() > kRateLimitPrefix.size() &&
         http::equals_ignoring_case(name.substr(0, kRateLimitPrefix.size()), kRateLimitPrefix);
}

// RFC 9110, section 7.6.1: what Connection names is for this hop alone.
bool is_named_by_connection(const std::vector<Header>& headers, std::string_view name) {
  return std::ranges::any_of(headers, [&](const Header& header) {
    return http::equals_ignoring_case(header.name, "connection") &&
           http::has_list_member(header.value, name);
  });
}

void append(std::string& out, const Header& header) {
  out.append(header.name).append(": ").append(header.value).append("\r\n");
}

}  // namespace

void add_call_headers(net::Buffer& out, const http::RequestHead& head) {
  for (const Header& header : head.headers) {
    if (!is_listed(kToBackend, header.name)) continue;
    if (is_named_by_connection(head.headers, header.name)) continue;
    for (const std::string_view part : {header.name, ": "sv, header.value, "\r\n"sv}) out.add(part);
  }
}

void append_reply_headers(std::string& out, const http::ResponseHead& head,
                          const SecretMask& mask) {
  for (const Header& header : head.headers) {
    if (!is_listed(kToClient, header.name) && !is_rate_limit(header.name)) continue;
    if (is_named_by_connection(head.headers, header.name)) continue;
    if (mask.is_in(header.value)) continue;
    append(out, header);
  }
}

bool is_event_stream(const http::ResponseHead& head) {
  const Header* header = head.find("content-type");
  if (header == nullptr) return false;
  const std::string_view type = http::trim(header->value.substr(0, header->value.find(';')));
  return http::equals_ignoring_case(type, "text/event-stream");
}

bool is_encoded(const http::ResponseHead& head) {
  return std::ranges::any_of(head.headers, [](const Header& header) {
    return http::equals_ignoring_case(header.name, "content-encoding") && !header.value.empty() &&
           !http::equals_ignoring_case(header.value, "identity");
  });
}

}  // namespace llmproxy
