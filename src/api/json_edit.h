// Edits of a JSON text by splicing: members are replaced, added or removed, every other byte stays
// as it is. These functions find their way by structure alone: what a text says is sure only if it
// has been validated before (simdjson's DOM parser does), or value by value afterwards.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace llmproxy {

// At `offset` of the original text, `remove` bytes go and `insert` comes.
struct Splice {
  size_t offset = 0;
  size_t remove = 0;
  std::string insert{};

  bool operator==(const Splice&) const = default;
};

struct Member {
  std::string_view key;    // as written, between the quotes, escapes and all
  std::string_view value;  // as written
  size_t begin = 0;        // offset of the key's opening quote in the text
  size_t end = 0;          // offset after the value
};

// The members of the object that `text` is (blanks around it and a byte order mark allowed), in
// order. Views into `text`. Nothing where `text` is no object. Safe on any bytes, whatever it then
// finds.
std::vector<Member> object_members(std::string_view text);
// Reuses the vector's room. False: the text does not end where the object does, or is none.
bool object_members(std::string_view text, std::vector<Member>& members);

// The same of the values of the array that `text` is.
std::vector<std::string_view> array_values(std::string_view text);

// The splice that removes member `index`, with the one comma that goes with it.
Splice remove_member(std::string_view text, const std::vector<Member>& members, size_t index);

// The splice that adds `"key":value` as the last member. `members` as object_members(text) gave
// them.
Splice add_member(std::string_view text, const std::vector<Member>& members, std::string_view key,
                  std::string_view value);

// `text` between quotes, escaped for JSON (RFC 8259); bytes that are no UTF-8 become U+FFFD.
std::string quote_json(std::string_view text);

}  // namespace llmproxy
