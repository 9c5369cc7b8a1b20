// The table, the list of models, and errors as clients see them.
#include "api/endpoint.h"

#include <gtest/gtest.h>

#include "api/error_body.h"
#include "api/json.h"

namespace llmproxy {
namespace {

TEST(Endpoint, FindsByMethodAndPath) {
  const struct {
    std::string_view method;
    std::string_view path;
    const Endpoint* endpoint;
    std::string_view allow;
  } cases[] = {
      {"POST", "/v1/chat/completions", &kChatCompletions, ""},
      {"GET", "/v1/models", &kModels, ""},
      {"GET", "/v1/chat/completions", nullptr, "POST"},
      {"post", "/v1/chat/completions", nullptr, "POST"},
      {"HEAD", "/v1/models", &kModels, ""},
      {"HEAD", "/v1/chat/completions", nullptr, "POST"},
      {"POST", "/v1/models", nullptr, "GET, HEAD"},
      {"GET", "/v1/models/", nullptr, ""},
      {"GET", "/v1/models/x", nullptr, ""},
      {"POST", "/V1/chat/completions", nullptr, ""},
      {"POST", "/", nullptr, ""},
      {"POST", "", nullptr, ""},
  };
  for (const auto& c : cases) {
    std::string allow = "old";
    EXPECT_EQ(find_endpoint(c.method, c.path, allow), c.endpoint) << c.method << c.path;
    EXPECT_EQ(allow, c.allow) << c.method << c.path;
  }
}

TEST(Endpoint, EachRowIsForwardedOrAnswered) {
  for (const Endpoint* endpoint : {&kChatCompletions, &kModels}) {
    const bool is_forwarded = endpoint->read_call != nullptr;
    EXPECT_EQ(is_forwarded, endpoint->edit_call != nullptr);
    EXPECT_EQ(is_forwarded, endpoint->read_stream != nullptr);
    EXPECT_EQ(is_forwarded, endpoint->read_reply != nullptr);
    EXPECT_EQ(is_forwarded, endpoint->answer == nullptr);
  }
}

TEST(Models, ListsTheConfiguredNames) {
  Config config;
  EXPECT_EQ(kModels.answer(config), R"({"object":"list","data":[]})");
  config.backends["b/\"x\""] = Backend{};
  config.backends["a"] = Backend{};
  EXPECT_EQ(kModels.answer(config),
            R"({"object":"list","data":[)"
            R"({"id":"a","object":"model","created":0,"owned_by":"llm-billing-proxy"},)"
            R"({"id":"b/\"x\"","object":"model","created":0,"owned_by":"llm-billing-proxy"}]})");
}

Error error_of(int status, std::string code = "", std::string param = "") {
  Error error;
  error.status = status;
  error.message = "No \"x\"";
  error.code = std::move(code);
  error.param = std::move(param);
  error.detail = "secret";
  return error;
}

TEST(ErrorBody, HasFourMembersAndTheTypeOfItsStatus) {
  const struct {
    Error error;
    std::string_view rest;
  } cases[] = {
      {error_of(400, "", "stream"), R"("invalid_request_error","param":"stream","code":null)"},
      {error_of(401), R"("invalid_request_error","param":null,"code":"invalid_api_key")"},
      {error_of(401, "x"), R"("invalid_request_error","param":null,"code":"x")"},
      {error_of(404, "model_not_found", "model"),
       R"("invalid_request_error","param":"model","code":"model_not_found")"},
      {error_of(405), R"("invalid_request_error","param":null,"code":null)"},
      {error_of(408), R"("invalid_request_error","param":null,"code":null)"},
      {error_of(413), R"("invalid_request_error","param":null,"code":null)"},
      {error_of(429, "rate_limit_exceeded"),
       R"("requests","param":null,"code":"rate_limit_exceeded")"},
      {error_of(429, "insufficient_quota"),
       R"("insufficient_quota","param":null,"code":"insufficient_quota")"},
      {error_of(500), R"("server_error","param":null,"code":null)"},
      {error_of(502, "upstream_error"), R"("server_error","param":null,"code":"upstream_error")"},
      {error_of(503, "service_unavailable"),
       R"("server_error","param":null,"code":"service_unavailable")"},
      {error_of(504, "timeout"), R"("server_error","param":null,"code":"timeout")"},
  };
  for (const auto& c : cases) {
    const std::string body =
        R"({"error":{"message":"No \"x\"","type":)" + std::string(c.rest) + "}}";
    EXPECT_EQ(error_body(Dialect::kOpenAi, c.error), body);
    EXPECT_EQ(error_event(Dialect::kOpenAi, c.error), "data: " + body + "\n\n");
  }
}

TEST(ErrorBody, IsJsonWhateverTheMessage) {
  Error error = error_of(400);
  error.message = "line\nline\xff\x01";
  const std::string event = error_event(Dialect::kOpenAi, error);
  EXPECT_EQ(event.find('\n'), event.size() - 2);
  const std::string body = error_body(Dialect::kOpenAi, error);
  EXPECT_TRUE(JsonText(body).ok());
}

}  // namespace
}  // namespace llmproxy
