// The table of endpoints and the search in it.
#include "api/endpoint.h"

#include <array>

namespace llmproxy {

namespace {

constexpr std::array<const Endpoint*, 2> kEndpoints = {&kChatCompletions, &kModels};

}  // namespace

const Endpoint* find_endpoint(std::string_view method, std::string_view path, std::string& allow) {
  allow.clear();
  for (const Endpoint* endpoint : kEndpoints) {
    if (endpoint->path != path) continue;
    if (endpoint->method == method) {
      allow.clear();
      return endpoint;
    }
    if (!allow.empty()) allow += ", ";
    allow += endpoint->method;
  }
  return nullptr;
}

}  // namespace llmproxy
