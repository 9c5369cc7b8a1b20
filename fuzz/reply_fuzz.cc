// Any plain reply: a figure comes only from a JSON object's one top-level usage, in its range, and
// blanks around the text change nothing.
#include <cstdint>
#include <string>
#include <string_view>

#include "api/endpoint.h"
#include "api/json.h"
#include "base/check.h"

namespace {

using namespace llmproxy;  // NOLINT: a program of one file

bool may_have_figure(std::string_view body) {
  const JsonText json(body);
  simdjson::dom::object object;
  if (!json.ok() || json.root().get(object) != simdjson::SUCCESS) return false;
  int usages = 0;
  for (const auto [key, value] : object) {
    if (key == "usage") ++usages;
  }
  return usages == 1 && json.root()["usage"].is_object();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const ReplyFacts facts = kChatCompletions.read_reply(body, Call{});
  LLMPROXY_CHECK(!facts.running_figure);
  if (facts.final_figure) {
    LLMPROXY_CHECK(may_have_figure(body) && !facts.is_malformed);
    const auto [prompt_n, completion_n] = *facts.final_figure;
    LLMPROXY_CHECK(prompt_n >= 0 && prompt_n <= kCountMax);
    LLMPROXY_CHECK(completion_n >= 0 && completion_n <= kCountMax);
  } else if (!facts.is_malformed) {
    LLMPROXY_CHECK(!may_have_figure(body));
  }
  const ReplyFacts padded =
      kChatCompletions.read_reply("\r\n\n \t" + std::string(body) + "\n", Call{});
  LLMPROXY_CHECK(padded.final_figure == facts.final_figure);
  LLMPROXY_CHECK(padded.is_malformed == facts.is_malformed);
  LLMPROXY_CHECK(padded.saw_error == facts.saw_error);
  return 0;
}
