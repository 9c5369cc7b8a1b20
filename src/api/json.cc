// The thread's JSON parser, and what is read alike in every API.
#include "api/json.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "api/endpoint.h"
#include "api/json_edit.h"
#include "base/check.h"

namespace llmproxy {

namespace {

using simdjson::dom::element;
using simdjson::dom::element_type;

constexpr size_t kBufferMin = size_t{4} << 10;
// What a thread keeps between texts; one large body must not hold ten times its size for ever.
constexpr size_t kBufferKept = kShortBody;

// What simdjson and our lists write for a text, for each byte that opens or parts values: two words
// of tape, places of tokens, and the head of a string.
constexpr size_t kBytesPerValue = 24;
// And for each colon: a Member in a list that doubles, as well.
constexpr size_t kBytesPerMember = kBytesPerValue + 2 * sizeof(Member);

struct ThreadParser {
  std::unique_ptr<simdjson::dom::parser> parser;
  std::unique_ptr<char[]> buffer;
  size_t capacity = 0;
  bool is_used = false;

  void release() {
    parser.reset();
    buffer.reset();
    capacity = 0;
  }
};

ThreadParser& thread_parser() {
  thread_local ThreadParser parser;
  return parser;
}

}  // namespace

JsonText::JsonText(std::string_view text) {
  ThreadParser& own = thread_parser();
  LLMPROXY_CHECK(!own.is_used);
  if (text.size() > own.capacity || own.parser == nullptr) {
    own.release();
    own.capacity =
        std::max(kBufferMin, text.size() <= kBufferKept / 2 ? text.size() * 2 : text.size());
    own.buffer = std::make_unique_for_overwrite<char[]>(own.capacity + simdjson::SIMDJSON_PADDING);
    own.parser = std::make_unique<simdjson::dom::parser>();
    error_ = own.parser->allocate(own.capacity, kJsonDepthMax);
  } else {
    error_ = simdjson::SUCCESS;
  }
  if (error_ == simdjson::SUCCESS) {
    std::memcpy(own.buffer.get(), text.data(), text.size());
    std::memset(own.buffer.get() + text.size(), 0, simdjson::SIMDJSON_PADDING);
    error_ = own.parser->parse(own.buffer.get(), text.size(), false).get(root_);
  }
  own.is_used = true;  // not before what may throw: no destructor would take it back
}

JsonText::~JsonText() {
  ThreadParser& own = thread_parser();
  own.is_used = false;
  if (own.capacity > kBufferKept || error_ == simdjson::MEMALLOC) own.release();
}

size_t reading_bytes(std::string_view body) {
  size_t values = 1;
  size_t members = 0;
  for (const char c : body) {
    values += c == ',' || c == '[' || c == '{' ? 1 : 0;
    members += c == ':' ? 1 : 0;
  }
  // Twice the body: the padded copy, and the strings without their escapes.
  return 2 * body.size() + values * kBytesPerValue + members * kBytesPerMember;
}

bool is_truthy(element value) {
  switch (value.type()) {
    case element_type::NULL_VALUE:
      return false;
    case element_type::BOOL:
      return bool(value);
    case element_type::STRING:
      return !std::string_view(value).empty();
    case element_type::INT64:
      return int64_t(value) != 0;
    case element_type::DOUBLE:
      return double(value) != 0;
    default:
      return true;
  }
}

std::optional<int64_t> read_count(element value) {
  if (value.is_int64()) {
    const int64_t count = int64_t(value);
    if (count >= 0 && count <= kCountMax) return count;
  } else if (value.is_double()) {
    const double count = double(value);
    if (count >= 0 && count <= static_cast<double>(kCountMax) && std::floor(count) == count) {
      return static_cast<int64_t>(count);
    }
  }
  return std::nullopt;
}

std::optional<Figure> read_figure(element usage, std::string_view prompt_name,
                                  std::string_view completion_name) {
  simdjson::dom::object object;
  if (usage.get(object) != simdjson::SUCCESS) return std::nullopt;
  Figure figure;
  int prompts = 0;
  int completions = 0;
  for (const auto [key, value] : object) {
    const bool is_prompt = key == prompt_name;
    if (!is_prompt && key != completion_name) continue;
    const std::optional<int64_t> count = read_count(value);
    if (!count) return std::nullopt;
    (is_prompt ? figure.prompt_n : figure.completion_n) = *count;
    ++(is_prompt ? prompts : completions);
  }
  if (prompts != 1 || completions != 1) return std::nullopt;
  return figure;
}

}  // namespace llmproxy
