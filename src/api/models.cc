// GET /v1/models: the configured names, with the four members that typed SDKs require.
#include "api/endpoint.h"
#include "api/json_edit.h"

namespace llmproxy {

namespace {

// When a backend's model was made is not known here; SDKs want some whole number.
constexpr std::string_view kTail =
    R"(,"object":"model","created":0,"owned_by":"llm-billing-proxy"})";

std::string list_models(const Config& config) {
  std::string body = R"({"object":"list","data":[)";
  bool is_first = true;
  for (const auto& [name, backend] : config.backends) {
    if (!is_first) body += ',';
    is_first = false;
    body += R"({"id":)";
    body += quote_json(name);
    body += kTail;
  }
  return body += "]}";
}

}  // namespace

constinit const Endpoint kModels = {
    .method = "GET",
    .path = "/v1/models",
    .answer = list_models,
};

}  // namespace llmproxy
