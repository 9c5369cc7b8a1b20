// BSON as this project needs it: documents as owners, values that keep their type, events both
// ways. Knows no connection.
#pragma once

#include <bson/bson.h>

#include <string>
#include <string_view>

#include "billing/event.h"
#include "billing/key.h"

namespace llmproxy {

// One bson_t with an owner.
class BsonDocument {
 public:
  BsonDocument() { bson_init(&document_); }
  ~BsonDocument() { bson_destroy(&document_); }
  BsonDocument(const BsonDocument&) = delete;
  BsonDocument& operator=(const BsonDocument&) = delete;

  bson_t* get() { return &document_; }
  const bson_t* get() const { return &document_; }
  // Hands the place to a driver call that initialises it; what was in it goes.
  bson_t* fresh() {
    bson_destroy(&document_);
    return &document_;
  }

  BsonDocument& add(const char* key, std::string_view text) {
    bson_append_utf8(&document_, key, -1, text.data(), static_cast<int>(text.size()));
    return *this;
  }
  BsonDocument& add(const char* key, const BsonDocument& value) {
    bson_append_document(&document_, key, -1, value.get());
    return *this;
  }
  BsonDocument& add_date(const char* key, int64_t time) {
    bson_append_date_time(&document_, key, -1, time);
    return *this;
  }
  BsonDocument& add_null(const char* key) {
    bson_append_null(&document_, key, -1);
    return *this;
  }
  BsonDocument& add_bool(const char* key, bool value) {
    bson_append_bool(&document_, key, -1, value);
    return *this;
  }
  BsonDocument& add_number(const char* key, int64_t value);  // int32 where it fits, else int64
  BsonDocument& add_id(const char* key, const ObjectId& id);
  BsonDocument& add_value(const char* key, const TypedValue& value);

 private:
  bson_t document_;
};

TypedValue typed_value(const bson_iter_t& value);

// The document of billing.events_completion, fields in the original's order.
void append_event(BsonDocument& document, const Event& event);

// True when the stored document says the same in all six fields; further fields do not matter.
bool is_event(const bson_t& stored, const Event& event);

}  // namespace llmproxy
