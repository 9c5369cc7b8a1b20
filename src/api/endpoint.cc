// The table of endpoints and the search in it.
#include "api/endpoint.h"

#include <array>

namespace llmproxy {

namespace {

constexpr std::array<const Endpoint*, 2> kEndpoints = {&kChatCompletions, &kModels};

}  // namespace

// Whoever answers GET answers HEAD (RFC 9110, section 9.1).
const Endpoint* find_endpoint(std::string_view method, std::string_view path, std::string& allow) {
  allow.clear();
  for (const Endpoint* endpoint : kEndpoints) {
    if (endpoint->path != path) continue;
    const bool is_get = endpoint->method == "GET";
    if (endpoint->method == method || (is_get && method == "HEAD")) {
      allow.clear();
      return endpoint;
    }
    if (!allow.empty()) allow += ", ";
    allow += endpoint->method;
    if (is_get) allow += ", HEAD";
  }
  return nullptr;
}

}  // namespace llmproxy
