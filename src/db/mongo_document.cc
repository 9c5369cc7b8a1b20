// BSON both ways, by libbson's public calls alone.
#include "db/mongo_document.h"

#include <cstdint>
#include <cstring>
#include <limits>

#include "db/python_text.h"

namespace llmproxy {
namespace {

// A value's bytes as they stand in a document, found by wrapping it: {"": value} is a length of 4
// bytes, the type, the empty name's NUL, the value, and a NUL.
constexpr size_t kWrapHead = 4 + 1 + 1;
constexpr size_t kWrapTail = 1;

bool find(const bson_t& document, const char* key, bson_iter_t& found) {
  return bson_iter_init_find(&found, &document, key);
}

bool is_text(const bson_t& document, const char* key, std::string_view text) {
  bson_iter_t value;
  if (!find(document, key, value) || !BSON_ITER_HOLDS_UTF8(&value)) return false;
  uint32_t size = 0;
  const char* stored = bson_iter_utf8(&value, &size);
  return std::string_view(stored, size) == text;
}

bool is_number(const bson_t& document, const char* key, int64_t number) {
  bson_iter_t value;
  if (!find(document, key, value)) return false;
  if (!BSON_ITER_HOLDS_INT32(&value) && !BSON_ITER_HOLDS_INT64(&value)) return false;
  return bson_iter_as_int64(&value) == number;
}

}  // namespace

BsonDocument& BsonDocument::add_number(const char* key, int64_t value) {
  if (value >= std::numeric_limits<int32_t>::min() &&
      value <= std::numeric_limits<int32_t>::max()) {
    bson_append_int32(&document_, key, -1, static_cast<int32_t>(value));
  } else {
    bson_append_int64(&document_, key, -1, value);
  }
  return *this;
}

BsonDocument& BsonDocument::add_id(const char* key, const ObjectId& id) {
  bson_oid_t oid;
  bson_oid_init_from_data(&oid, id.bytes.data());
  bson_append_oid(&document_, key, -1, &oid);
  return *this;
}

BsonDocument& BsonDocument::add_value(const char* key, const TypedValue& value) {
  if (value.bytes.empty() && value.bson_type == BSON_TYPE_UTF8) return add(key, value.text);
  const auto size = static_cast<uint32_t>(kWrapHead + value.bytes.size() + kWrapTail);
  std::string wrapped;
  for (int shift = 0; shift < 32; shift += 8) wrapped += static_cast<char>(size >> shift);
  wrapped += static_cast<char>(value.bson_type);
  wrapped += '\0';
  wrapped += value.bytes;
  wrapped += '\0';
  bson_t document;
  bson_iter_t iterator;
  if (bson_init_static(&document, reinterpret_cast<const uint8_t*>(wrapped.data()),
                       wrapped.size()) &&
      bson_iter_init(&iterator, &document) && bson_iter_next(&iterator)) {
    bson_append_iter(&document_, key, -1, &iterator);
  }
  return *this;
}

TypedValue typed_value(const bson_iter_t& value) {
  BsonDocument wrapped;
  bson_append_iter(wrapped.get(), "", 0, &value);
  const auto* bytes = reinterpret_cast<const char*>(bson_get_data(wrapped.get()));
  return {.bson_type = static_cast<uint8_t>(bson_iter_type(&value)),
          .bytes = std::string(bytes + kWrapHead, wrapped.get()->len - kWrapHead - kWrapTail),
          .text = python_text(value)};
}

void append_event(BsonDocument& document, const Event& event) {
  document.add_id("_id", event.id)
      .add_date("date_created", event.date_created)
      .add_value("user_id", event.user_id)
      .add("api_key_id", event.api_key_id)
      .add("model", event.model)
      .add_number("prompt_n", event.prompt_n)
      .add_number("completion_n", event.completion_n);
}

bool is_event(const bson_t& stored, const Event& event) {
  bson_iter_t date, user, own_user;
  BsonDocument own;
  own.add_value("user_id", event.user_id);
  if (!find(*own.get(), "user_id", own_user)) return false;
  if (!find(stored, "date_created", date) || !BSON_ITER_HOLDS_DATE_TIME(&date)) return false;
  return bson_iter_date_time(&date) == event.date_created && find(stored, "user_id", user) &&
         typed_value(user) == typed_value(own_user) &&
         is_text(stored, "api_key_id", event.api_key_id) && is_text(stored, "model", event.model) &&
         is_number(stored, "prompt_n", event.prompt_n) &&
         is_number(stored, "completion_n", event.completion_n);
}

}  // namespace llmproxy
