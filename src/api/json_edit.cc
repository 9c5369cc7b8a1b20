// Finds the members of a JSON object by structure alone and makes splices. Validates nothing, but
// stays within the bytes whatever they are.
#include "api/json_edit.h"

#include <array>
#include <cstring>

#include "api/sse.h"
#include "base/check.h"
#include "base/text.h"

namespace llmproxy {

namespace {

constexpr bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

size_t skip_blanks(std::string_view text, size_t at) {
  while (at < text.size() && is_blank(text[at])) ++at;
  return at;
}

// `at` is an opening quote. The offset after the closing one, or the end of the text.
size_t skip_string(std::string_view text, size_t at) {
  const size_t begin = at + 1;
  size_t from = begin;
  while (from < text.size()) {
    const void* found = std::memchr(text.data() + from, '"', text.size() - from);
    if (found == nullptr) return text.size();
    const size_t quote = static_cast<size_t>(static_cast<const char*>(found) - text.data());
    size_t slashes = 0;
    while (quote - slashes > from && text[quote - slashes - 1] == '\\') ++slashes;
    if (slashes % 2 == 0) return quote + 1;
    from = quote + 1;
  }
  return text.size();
}

// The offset after the value that starts at `at`.
size_t skip_value(std::string_view text, size_t at) {
  size_t depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '"') {
      at = skip_string(text, at);
      if (depth == 0) return at;
    } else if (c == '{' || c == '[') {
      ++depth;
      ++at;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return at;
      ++at;
      if (--depth == 0) return at;
    } else if (depth == 0 && (c == ',' || is_blank(c))) {
      return at;
    } else {
      ++at;
    }
  }
  return at;
}

void append_escaped(std::string& out, char c) {
  constexpr std::array<char, 16> kDigits = {'0', '1', '2', '3', '4', '5', '6', '7',
                                            '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'};
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    default:
      out += "\\u00";
      out += kDigits[static_cast<uint8_t>(c) >> 4];
      out += kDigits[static_cast<uint8_t>(c) & 15];
  }
}

}  // namespace

bool object_members(std::string_view text, std::vector<Member>& members) {
  members.clear();
  size_t at = skip_blanks(text, text.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0);
  if (at >= text.size() || text[at] != '{') return false;
  at = skip_blanks(text, at + 1);
  while (at < text.size() && text[at] == '"') {
    const size_t key_end = skip_string(text, at);
    const size_t colon = skip_blanks(text, key_end);
    if (key_end < at + 2 || colon >= text.size() || text[colon] != ':') return false;
    const size_t value = skip_blanks(text, colon + 1);
    const size_t end = skip_value(text, value);
    members.push_back({.key = text.substr(at + 1, key_end - at - 2),
                       .value = text.substr(value, end - value),
                       .begin = at,
                       .end = end});
    at = skip_blanks(text, end);
    if (at >= text.size() || text[at] != ',') break;
    at = skip_blanks(text, at + 1);
  }
  return at < text.size() && text[at] == '}' && skip_blanks(text, at + 1) == text.size();
}

std::vector<Member> object_members(std::string_view text) {
  std::vector<Member> members;
  object_members(text, members);
  return members;
}

std::vector<std::string_view> array_values(std::string_view text) {
  std::vector<std::string_view> values;
  size_t at = skip_blanks(text, 0);
  if (at >= text.size() || text[at] != '[') return values;
  do {
    const size_t begin = skip_blanks(text, at + 1);
    const size_t end = skip_value(text, begin);
    if (end > begin) values.push_back(text.substr(begin, end - begin));
    at = skip_blanks(text, end);
  } while (at < text.size() && text[at] == ',');
  return values;
}

Splice remove_member(std::string_view text, const std::vector<Member>& members, size_t index) {
  LLMPROXY_CHECK(index < members.size() && members[index].end <= text.size());
  const Member& member = members[index];
  if (index > 0) {  // with the comma and the blanks before it
    const size_t from = members[index - 1].end;
    return {.offset = from, .remove = member.end - from};
  }
  const size_t to = members.size() > 1 ? members[1].begin : member.end;
  return {.offset = member.begin, .remove = to - member.begin};
}

Splice add_member(std::string_view text, const std::vector<Member>& members, std::string_view key,
                  std::string_view value) {
  Splice splice;
  splice.offset = members.empty() ? text.find('{') + 1 : members.back().end;
  LLMPROXY_CHECK(splice.offset > 0 && splice.offset <= text.size());
  if (!members.empty()) splice.insert = ",";
  splice.insert += quote_json(key);
  splice.insert += ':';
  splice.insert += value;
  return splice;
}

std::string quote_json(std::string_view text) {
  std::string out = "\"";
  out.reserve(text.size() + 2);
  while (!text.empty()) {
    size_t length = utf8_length(text);
    if (length == 0) {
      out += "\xEF\xBF\xBD";
      length = 1;
    } else if (length == 1 &&
               (static_cast<uint8_t>(text[0]) < 0x20 || text[0] == '"' || text[0] == '\\')) {
      append_escaped(out, text[0]);
    } else {
      out.append(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  out += '"';
  return out;
}

}  // namespace llmproxy
