// Any text: object_members stays within it; of valid objects it finds the members that simdjson
// finds, and removing or adding one leaves valid JSON with just that change. Any bytes can be
// quoted.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/json.h"
#include "api/json_edit.h"
#include "api/splice_trial.h"
#include "base/check.h"

namespace {

using namespace llmproxy;  // NOLINT: a program of one file

// "KEY=VALUE" of each member, re-serialised; `is_object` says whether the text is a JSON object.
std::vector<std::string> parsed_members(std::string_view text, bool& is_object) {
  const JsonText json(text);
  simdjson::dom::object object;
  is_object = json.ok() && json.root().get(object) == simdjson::SUCCESS;
  std::vector<std::string> members;
  if (!is_object) return members;
  for (const auto [key, value] : object) {
    members.push_back(std::string(key) + "=" + simdjson::minify(value));
  }
  return members;
}

std::vector<std::string> parsed_object(std::string_view text) {
  bool is_object = false;
  std::vector<std::string> members = parsed_members(text, is_object);
  LLMPROXY_CHECK(is_object);
  return members;
}

std::string decoded(const Member& member) {
  const std::vector<std::string> one =
      parsed_object("{\"" + std::string(member.key) + "\":" + std::string(member.value) + "}");
  LLMPROXY_CHECK(one.size() == 1);
  return one[0];
}

void check_quote(std::string_view text) {
  const std::string quoted = quote_json(text);
  const JsonText json(quoted);
  std::string_view value;
  LLMPROXY_CHECK(json.ok() && json.root().get(value) == simdjson::SUCCESS);
  if (simdjson::validate_utf8(text.data(), text.size())) LLMPROXY_CHECK(value == text);
}

void check_edits(std::string_view text, const std::vector<Member>& members,
                 const std::vector<std::string>& expected) {
  for (size_t i = 0; i < members.size() && i < 8; ++i) {
    std::vector<std::string> rest = expected;
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(i));
    LLMPROXY_CHECK(parsed_object(apply_splices(text, {remove_member(text, members, i)})) == rest);
  }
  std::vector<std::string> more = expected;
  more.push_back("k\"={\"x\":[1]}");
  const Splice added = add_member(text, members, "k\"", R"({"x":[1]})");
  LLMPROXY_CHECK(parsed_object(apply_splices(text, {added})) == more);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_quote(text);
  const std::vector<Member> members = object_members(text);
  for (const Member& member : members)
    LLMPROXY_CHECK(member.begin < member.end && member.end <= size);
  bool is_object = false;
  const std::vector<std::string> expected = parsed_members(text, is_object);
  if (!is_object) return 0;
  LLMPROXY_CHECK(members.size() == expected.size());
  for (size_t i = 0; i < members.size(); ++i) LLMPROXY_CHECK(decoded(members[i]) == expected[i]);
  check_edits(text, members, expected);
  return 0;
}
