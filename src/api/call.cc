// Errors and spelling checks shared by the readers of request bodies.
#include "api/call.h"

#include <algorithm>
#include <bitset>
#include <vector>

#include "api/json_edit.h"
#include "base/check.h"

namespace llmproxy {

namespace {

constexpr size_t kSpelledNamesMax = 32;

// True if `key` is `name` when case is ignored as Go's encoding/json does it: ASCII letters, and
// the two other characters that fold into ASCII, U+017F (s) and U+212A (k).
bool folds_to(std::string_view key, std::string_view name) {
  constexpr std::string_view kLongS = "\xC5\xBF";
  constexpr std::string_view kKelvin = "\xE2\x84\xAA";
  for (const char expected : name) {
    if (key.empty()) return false;
    if (expected == 's' && key.starts_with(kLongS)) {
      key.remove_prefix(kLongS.size());
    } else if (expected == 'k' && key.starts_with(kKelvin)) {
      key.remove_prefix(kKelvin.size());
    } else {
      const char c = key[0];
      const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
      if (lower != expected) return false;
      key.remove_prefix(1);
    }
  }
  return key.empty();
}

std::string quoted(std::string_view name) {
  return "'" + std::string(name) + "'";
}

}  // namespace

Error bad_call(std::string message, std::string param) {
  Error error;
  error.status = 400;
  error.blame = Blame::kClient;
  error.message = std::move(message);
  error.param = std::move(param);
  return error;
}

Error bad_json(const JsonText& json) {
  if (json.error() == simdjson::MEMALLOC) {
    Error error;
    error.status = 503;
    error.message = "The request cannot be read now: out of memory.";
    return error;
  }
  return bad_call(std::string("The request body is not valid JSON: ") +
                  simdjson::error_message(json.error()));
}

bool has_escaped_letters(std::string_view text) {
  constexpr std::string_view kStart = "\\u00";
  for (size_t at = 0;; ++at) {
    at = text.find(kStart, at);
    if (at == std::string_view::npos) return false;
    const size_t digit = at + kStart.size();
    if (digit < text.size() && text[digit] >= '4' && text[digit] <= '7') return true;
  }
}

std::optional<Error> check_spelling(simdjson::dom::object object, std::string_view text,
                                    std::span<const std::string_view> names) {
  std::vector<Member> members;
  if (has_escaped_letters(text)) object_members(text, members);
  std::bitset<kSpelledNamesMax> seen;
  LLMPROXY_CHECK(names.size() <= seen.size());
  size_t index = 0;
  for (const auto [key, value] : object) {
    const bool is_escaped =
        index < members.size() && members[index].key.find('\\') != std::string_view::npos;
    ++index;
    for (size_t i = 0; i < names.size(); ++i) {
      if (key.size() < names[i].size() || !folds_to(key, names[i])) continue;
      if (key != names[i] || is_escaped) {
        return bad_call("The member " + quoted(names[i]) +
                            " must be spelled exactly so: lower case, without escapes.",
                        std::string(names[i]));
      }
      if (seen.test(i)) {
        return bad_call("The member " + quoted(names[i]) + " is there more than once.",
                        std::string(names[i]));
      }
      seen.set(i);
    }
  }
  return std::nullopt;
}

}  // namespace llmproxy
