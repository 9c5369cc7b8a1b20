// Errors as OpenAI writes them.
#include "api/error_body.h"

#include "api/json_edit.h"

namespace llmproxy {

namespace {

std::string_view openai_type(const Error& error) {
  if (error.status >= 500) return "server_error";
  if (error.status != 429) return "invalid_request_error";
  return error.code == "insufficient_quota" ? "insufficient_quota" : "requests";
}

std::string string_or_null(std::string_view text) {
  return text.empty() ? "null" : quote_json(text);
}

}  // namespace

std::string error_body(Dialect /*dialect*/, const Error& error) {
  // What SDKs and their users look for; nothing else makes a 401.
  const bool is_key_error = error.status == 401 && error.code.empty();
  std::string body = R"({"error":{"message":)";
  body += quote_json(error.message);
  body += R"(,"type":)";
  body += quote_json(openai_type(error));
  body += R"(,"param":)";
  body += string_or_null(error.param);
  body += R"(,"code":)";
  body += string_or_null(is_key_error ? std::string_view("invalid_api_key") : error.code);
  return body += "}}";
}

std::string error_event(Dialect dialect, const Error& error) {
  return "data: " + error_body(dialect, error) + "\n\n";
}

}  // namespace llmproxy
