// Any plain reply: a figure comes only from an object's one top-level usage, which is JSON, in its
// range. Neither blanks around the text nor a member beside it that is no strict JSON change it.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/endpoint.h"
#include "api/json.h"
#include "api/json_edit.h"
#include "api/sse.h"
#include "base/check.h"

namespace {

using namespace llmproxy;  // NOLINT: a program of one file

bool is_json_object(std::string_view body) {
  const JsonText json(body);
  return json.ok() && json.root().is_object();
}

bool may_have_figure(std::string_view body) {
  if (!is_json_object(body)) {
    std::vector<Member> members;
    if (!object_members(body, members)) return false;
    std::erase_if(members, [](const Member& member) { return member.key != "usage"; });
    return members.size() == 1 && is_json_object(members[0].value);
  }
  const JsonText json(body);
  int usages = 0;
  for (const auto [key, value] : simdjson::dom::object(json.root())) {
    if (key == "usage") ++usages;
  }
  return usages == 1 && json.root()["usage"].is_object();
}

void check_same(const ReplyFacts& a, const ReplyFacts& b) {
  LLMPROXY_CHECK(a.final_figure == b.final_figure);
  LLMPROXY_CHECK(a.is_malformed == b.is_malformed);
  LLMPROXY_CHECK(a.saw_error == b.saw_error);
}

// The same object with a member that is no strict JSON. A key written with escapes is not seen
// then.
void check_beside_nan(std::string_view body, const ReplyFacts& facts) {
  if (!is_json_object(body) || body.find("\\u") != std::string_view::npos) return;
  std::string odd(body);
  odd.insert(odd.find('{') + 1, R"("odd":NaN,)");
  check_same(kChatCompletions.read_reply(odd, Call{}), facts);
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
  check_beside_nan(body, facts);
  if (body.starts_with(kByteOrderMark)) return 0;
  const std::string padded = "\r\n\n \t" + std::string(body) + "\n";
  check_same(kChatCompletions.read_reply(padded, Call{}), facts);
  return 0;
}
