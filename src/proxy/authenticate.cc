// The header is read strictly; one and the same 401 answers every key that does not count.
#include "proxy/authenticate.h"

#include "base/text.h"

namespace llmproxy {
namespace {

constexpr int kRetryAfterSeconds = 2;

Error unauthorized(std::string message, std::string code) {
  Error error{401, Blame::kClient, std::move(message)};
  error.code = std::move(code);
  return error;
}

// The token of "Bearer TOKEN", or nothing. The scheme in any case (RFC 9110, section 11.1).
std::string_view bearer_token(std::string_view value) {
  constexpr std::string_view kScheme = "bearer ";
  if (value.size() <= kScheme.size()) return {};
  if (!http::equals_ignoring_case(value.substr(0, kScheme.size()), kScheme)) return {};
  return value.substr(kScheme.size());
}

Result<std::shared_ptr<const Key>> judge(KeyStore::Answer answer) {
  switch (answer.state) {
    case KeyStore::Answer::State::kKnown:
      return std::move(answer.key);
    case KeyStore::Answer::State::kRefused:
      return unauthorized("Incorrect API key provided.", "invalid_api_key");
    case KeyStore::Answer::State::kUnavailable:
      break;
  }
  Error error{503, Blame::kProxy, "API keys cannot be checked at the moment. Try again shortly."};
  error.code = "service_unavailable";
  error.retry_after_s = kRetryAfterSeconds;
  return error;
}

net::Task<Result<std::shared_ptr<const Key>>> await_answer(net::Step<KeyStore::Answer> found) {
  co_return judge(co_await found);
}

}  // namespace

net::Step<Result<std::shared_ptr<const Key>>> authenticate(const http::RequestHead& head,
                                                           KeyStore& keys, net::Loop& loop,
                                                           net::Interrupt& interrupt) {
  if (head.count("authorization") > 1) {
    return Error{400, Blame::kClient, "Several Authorization headers; send one."};
  }
  const http::Header* header = head.find("authorization");
  const std::string_view token = header == nullptr ? "" : bearer_token(header->value);
  if (token.empty()) {
    return unauthorized(
        "You didn't provide an API key. Send it in an Authorization header using Bearer auth "
        "(Authorization: Bearer YOUR_KEY).",
        "");
  }
  const bool is_visible =
      printable_ascii_length(token) == token.size() && token.find(' ') == std::string_view::npos;
  if (!is_visible) return judge({.state = KeyStore::Answer::State::kRefused});
  net::Step<KeyStore::Answer> found = keys.find(loop, sha256(token), &interrupt);
  if (!found.await_ready()) return await_answer(std::move(found));
  return judge(found.await_resume());
}

}  // namespace llmproxy
