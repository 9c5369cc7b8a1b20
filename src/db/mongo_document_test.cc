// BSON values: Python's words for them, types kept both ways, and which stored documents equal an
// event.
#include "db/mongo_document.h"

#include <gtest/gtest.h>

#include <limits>

#include "db/python_text.h"

namespace llmproxy {
namespace {

// The document that `json` (MongoDB's extended JSON) describes.
class Parsed {
 public:
  explicit Parsed(const std::string& json) {
    bson_error_t error{};
    document_ = bson_new_from_json(reinterpret_cast<const uint8_t*>(json.data()),
                                   static_cast<ssize_t>(json.size()), &error);
    if (document_ == nullptr) ADD_FAILURE() << json << ": " << error.message;
  }
  ~Parsed() { bson_destroy(document_); }
  Parsed(const Parsed&) = delete;
  Parsed& operator=(const Parsed&) = delete;

  const bson_t& get() const { return *document_; }
  bson_iter_t first() const {
    bson_iter_t value;
    EXPECT_TRUE(bson_iter_init(&value, document_) && bson_iter_next(&value));
    return value;
  }

 private:
  bson_t* document_ = nullptr;
};

const struct {
  const char* json;
  const char* text;
} kValues[] = {
    {R"("user1")", "user1"},
    {R"("")", ""},
    {R"({"$oid": "507f1f77bcf86cd799439011"})", "507f1f77bcf86cd799439011"},
    {R"({"$numberInt": "-7"})", "-7"},
    {R"({"$numberLong": "9007199254740993"})", "9007199254740993"},
    {R"({"$numberDouble": "5"})", "5.0"},
    {R"({"$numberDouble": "0.1"})", "0.1"},
    {R"({"$numberDouble": "-2.5"})", "-2.5"},
    {R"({"$numberDouble": "1e16"})", "1e+16"},
    {R"({"$numberDouble": "123456789012345"})", "123456789012345.0"},
    {R"({"$numberDouble": "0.00001"})", "1e-05"},
    {R"({"$numberDouble": "Infinity"})", "inf"},
    {R"({"$numberDouble": "-Infinity"})", "-inf"},
    {"true", "True"},
    {"false", "False"},
    {"null", "None"},
    {R"({"$date": {"$numberLong": "1795442709000"}})", "2026-11-23 14:05:09"},
    {R"({"$date": {"$numberLong": "1795442709123"}})", "2026-11-23 14:05:09.123000"},
    {R"({"$binary": {"base64": "AGEnXAo=", "subType": "00"}})", R"(b"\x00a'\\\n")"},
    {R"({"$binary": {"base64": "/38i", "subType": "04"}})", R"(b'\xff\x7f"')"},
    {R"({"$binary": {"base64": "Jyci", "subType": "00"}})", R"(b'\'\'"')"},
    {R"({"$numberDecimal": "1.50"})", "1.50"},
    {R"({"$numberDecimal": "-1E+3"})", "-1E+3"},
    {R"({"$timestamp": {"t": 1, "i": 2}})", "Timestamp(1, 2)"},
    {R"({})", "{}"},
    {R"({"a": 1, "b": [true, null, "x", {}]})", "{'a': 1, 'b': [True, None, 'x', {}]}"},
    {R"(["it's", "q'\"", "\\\n\u0001\u0142", 2.0, {"$numberLong": "9007199254740993"}])",
     R"(["it's", 'q\'"', '\\\n\x01)"
     "\xC5\x82"
     R"(', 2.0, 9007199254740993])"},
    {R"({"o": {"$oid": "507f1f77bcf86cd799439011"}, "d": {"$numberDecimal": "1.5"}})",
     "{'o': ObjectId('507f1f77bcf86cd799439011'), 'd': Decimal128('1.5')}"},
    {R"([{"$date": {"$numberLong": "1795442709123"}}, {"$date": {"$numberLong": "1795442700000"}},)"
     R"( {"$date": {"$numberLong": "1795442709000"}}])",
     "[datetime.datetime(2026, 11, 23, 14, 5, 9, 123000), datetime.datetime(2026, 11, 23, 14, 5), "
     "datetime.datetime(2026, 11, 23, 14, 5, 9)]"},
    {R"([{"$binary": {"base64": "/38i", "subType": "00"}}, )"
     R"({"$binary": {"base64": "eA==", "subType": "04"}}])",
     R"([b'\xff\x7f"', Binary(b'x', 4)])"},
    {R"({"$regularExpression": {"pattern": "a", "options": "i"}})",
     R"({ "$regularExpression" : { "pattern" : "a", "options" : "i" } })"},
};

TEST(BsonTest, WritesWhatPythonsStrGives) {
  for (const auto& one : kValues) {
    const Parsed parsed(std::string(R"({"v": )") + one.json + "}");
    EXPECT_EQ(python_text(parsed.first()), one.text) << one.json;
  }
}

TEST(BsonTest, DocumentsTooDeepAreShownToo) {
  BsonDocument inner;
  for (int depth = 0; depth < 1000; ++depth) {
    BsonDocument outer;
    outer.add("v", inner);
    bson_copy_to(outer.get(), inner.fresh());
  }
  bson_iter_t top;
  ASSERT_TRUE(bson_iter_init(&top, inner.get()) && bson_iter_next(&top));
  EXPECT_TRUE(python_text(top).starts_with("{'v': {'v': {'v': "));
}

TEST(BsonTest, KeepsEveryTypeBothWays) {
  for (const auto& one : kValues) {
    const Parsed parsed(std::string(R"({"user_id": )") + one.json + "}");
    const TypedValue value = typed_value(parsed.first());
    EXPECT_EQ(value.text, one.text);
    BsonDocument again;
    again.add_value("user_id", value);
    EXPECT_TRUE(bson_equal(again.get(), &parsed.get())) << one.json;
  }
}

TEST(BsonTest, AStringWithoutBytesIsItsText) {
  BsonDocument document;
  document.add_value("user_id", {.text = "user2"});
  EXPECT_TRUE(bson_equal(document.get(), &Parsed(R"({"user_id": "user2"})").get()));
}

Event event() {
  return {.id = *ObjectId::from_hex("507f1f77bcf86cd799439011"),
          .date_created = 1'795'442'709'123,
          .user_id = {.text = "user2"},
          .api_key_id = "507f191e810c19729de860ea",
          .model = "llama31-70b",
          .prompt_n = 2'147'483'647,
          .completion_n = 2'147'483'648};
}

TEST(BsonTest, AnEventHasTheOriginalsFieldsOrderAndTypes) {
  BsonDocument document;
  append_event(document, event());
  char* json = bson_as_canonical_extended_json(document.get(), nullptr);
  EXPECT_STREQ(json, R"({ "_id" : { "$oid" : "507f1f77bcf86cd799439011" }, )"
                     R"("date_created" : { "$date" : { "$numberLong" : "1795442709123" } }, )"
                     R"("user_id" : "user2", "api_key_id" : "507f191e810c19729de860ea", )"
                     R"("model" : "llama31-70b", "prompt_n" : { "$numberInt" : "2147483647" }, )"
                     R"("completion_n" : { "$numberLong" : "2147483648" } })");
  bson_free(json);
}

TEST(BsonTest, AStoredEventEqualsInSixFields) {
  const auto stored = [](const char* date, const char* user, const char* key, const char* model,
                         const char* prompt, const char* completion, const char* more = "") {
    return std::string(R"({"_id": 1, "date_created": )") + date + R"(, "user_id": )" + user +
           R"(, "api_key_id": )" + key + R"(, "model": )" + model + R"(, "prompt_n": )" + prompt +
           R"(, "completion_n": )" + completion + more + "}";
  };
  const char* const date = R"({"$date": {"$numberLong": "1795442709123"}})";
  const char* const key = R"("507f191e810c19729de860ea")";
  const char* const model = R"("llama31-70b")";
  const char* const user = R"("user2")";
  const char* const large = "2147483648";
  const struct {
    std::string json;
    bool is_equal;
  } cases[] = {
      {stored(date, user, key, model, "2147483647", large), true},
      {stored(date, user, key, model, R"({"$numberLong": "2147483647"})", large), true},
      {stored(date, user, key, model, "2147483647", large, R"(, "cost": 3)"), true},
      {stored("1795442709123", user, key, model, "2147483647", large), false},
      {stored(R"({"$date": {"$numberLong": "1795442709124"}})", user, key, model, "2147483647",
              large),
       false},
      {stored(date, R"("user3")", key, model, "2147483647", large), false},
      {stored(date, "null", key, model, "2147483647", large), false},
      {stored(date, user, R"({"$oid": "507f191e810c19729de860ea"})", model, "2147483647", large),
       false},
      {stored(date, user, key, R"("llama31-8b")", "2147483647", large), false},
      {stored(date, user, key, model, "2147483646", large), false},
      {stored(date, user, key, model, "2147483647.0", large), false},
      {stored(date, user, key, model, "2147483647", "2147483649"), false},
      {R"({"_id": 1})", false},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(is_event(Parsed(one.json).get(), event()), one.is_equal) << one.json;
  }
}

}  // namespace
}  // namespace llmproxy
