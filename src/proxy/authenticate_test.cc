// From the Authorization header to a key, or to the one answer that all bad keys get.
#include "proxy/authenticate.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "billing/test_database.h"
#include "net/test_loop.h"

namespace llmproxy {
namespace {

// Knows one token, "sk-good"; is down when asked for "sk-down".
class OneKey final : public TestDatabase {
 public:
  KeyLookup find_key(std::string_view secret_hex, std::string_view, WallMs) override {
    KeyLookup found;
    if (secret_hex == to_hex(sha256("sk-down"))) return found;
    found.state = KeyLookup::State::kUnknown;
    if (secret_hex != to_hex(sha256("sk-good"))) return found;
    found.state = KeyLookup::State::kFound;
    found.key.id = "good";
    return found;
  }
};

struct Case {
  std::vector<std::string> values;  // of Authorization headers
  int status;                       // 0: the key
  const char* code;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {{"Bearer sk-good"}, 0, ""},
      {{"bearer sk-good"}, 0, ""},
      {{"BEARER sk-good"}, 0, ""},
      {{}, 401, ""},
      {{""}, 401, ""},
      {{"Bearer"}, 401, ""},
      {{"Bearer "}, 401, ""},
      {{"Basic sk-good"}, 401, ""},
      {{"sk-good"}, 401, ""},
      {{"Bearer sk-bad"}, 401, "invalid_api_key"},
      {{"Bearer  sk-good"}, 401, "invalid_api_key"},
      {{"Bearer sk-good x"}, 401, "invalid_api_key"},
      {{"Bearer sk-good\x80"}, 401, "invalid_api_key"},
      {{"Bearer sk-good", "Bearer sk-good"}, 400, ""},
      {{"Bearer sk-down"}, 503, "service_unavailable"},
  };
  return all;
}

net::Task<void> check(net::Loop& loop, const Case& c, KeyStore& keys) {
  http::RequestHead head;
  for (const std::string& value : c.values) head.headers.push_back({"authorization", value});
  net::Interrupt interrupt;
  const Result<std::shared_ptr<const Key>> key = co_await authenticate(head, keys, loop, interrupt);
  EXPECT_EQ(key.ok(), c.status == 0);
  if (key.ok()) {
    EXPECT_EQ((*key)->id, "good");
    co_return;
  }
  EXPECT_EQ(key.error().status, c.status);
  EXPECT_EQ(key.error().code, c.code);
  EXPECT_EQ(key.error().retry_after_s > 0, c.status == 503);
  EXPECT_EQ(key.error().message.find("sk-"), std::string::npos);
  EXPECT_EQ(key.error().detail.find("sk-"), std::string::npos);
}

net::Task<void> check_all(net::Loop& loop) {
  Log log(2, LogLevel::kCritical);
  KeyStore keys(std::make_shared<OneKey>(), log, Config{});
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c.values));
    co_await check(loop, c, keys);
  }
}

TEST(Authenticate, ReadsTheHeaderStrictly) {
  net::run_on_loop(check_all);
}

}  // namespace
}  // namespace llmproxy
