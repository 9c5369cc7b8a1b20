// What is MongoDB's alone, on the server at TEST_MONGODB_URI: documents as the Python original
// wrote them, and a server that is not there.
#include <gtest/gtest.h>
#include <mongoc/mongoc.h>

#include <array>

#include "base/digest.h"
#include "db/mongo_document.h"
#include "db/open.h"
#include "db/test_uri.h"

namespace llmproxy {
namespace {

using State = KeyLookup::State;

constexpr WallMs kNow = 1'795'435'200'000;  // 2026-11-23T12:00:00Z

class MongoTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string uri = test_mongodb_uri();
    ASSERT_NE(uri, "") << kHowToStartMongo;
    auto opened = open_database(uri);
    ASSERT_TRUE(opened) << opened.error().message;
    database_ = std::move(*opened);
    client_ = mongoc_client_new(uri.c_str());
    ASSERT_NE(client_, nullptr);
    Sha256 secret{};
    random_bytes(secret);
    secret_ = to_hex(secret);
  }
  void TearDown() override {
    if (client_ != nullptr) mongoc_client_destroy(client_);
  }
  // Puts `{FIELDS, "secret": ...}` into cgc.api_keys.
  void put_key(const std::string& fields) {
    const std::string json =
        "{" + fields + R"(, "access_level": "COMPLETION", "secret": ")" + secret_ + "\"}";
    bson_error_t error{};
    bson_t* document = bson_new_from_json(reinterpret_cast<const uint8_t*>(json.data()),
                                          static_cast<ssize_t>(json.size()), &error);
    ASSERT_NE(document, nullptr) << json << error.message;
    mongoc_collection_t* keys = mongoc_client_get_collection(client_, "cgc", "api_keys");
    BsonDocument same;
    same.add("secret", secret_);
    mongoc_collection_delete_many(keys, same.get(), nullptr, nullptr, nullptr);
    EXPECT_TRUE(mongoc_collection_insert_one(keys, document, nullptr, nullptr, &error))
        << json << error.message;
    mongoc_collection_destroy(keys);
    bson_destroy(document);
  }
  KeyLookup find() { return database_->find_key(secret_, "COMPLETION", kNow); }
  std::string stored_event(const ObjectId& id) {
    mongoc_collection_t* events =
        mongoc_client_get_collection(client_, "billing", "events_completion");
    BsonDocument filter;
    filter.add_id("_id", id);
    mongoc_cursor_t* cursor =
        mongoc_collection_find_with_opts(events, filter.get(), nullptr, nullptr);
    const bson_t* document = nullptr;
    std::string text = "none";
    if (mongoc_cursor_next(cursor, &document)) {
      char* json = bson_as_canonical_extended_json(document, nullptr);
      text = json;
      bson_free(json);
    }
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(events);
    return text;
  }
  std::string fresh_id() { return mint_.mint(kNow).hex(); }

  std::unique_ptr<Database> database_;
  mongoc_client_t* client_ = nullptr;
  std::string secret_;
  ObjectIdMint mint_;
};

TEST_F(MongoTest, ReadsExpiryAsTheOriginalsQueryDoes) {
  const struct {
    const char* field;
    State state;
  } cases[] = {
      {"", State::kFound},
      {R"(, "date_expiry": null)", State::kFound},
      {R"(, "date_expiry": {"$date": {"$numberLong": "1795435200001"}})", State::kFound},
      {R"(, "date_expiry": {"$date": {"$numberLong": "1795435200000"}})", State::kUnknown},
      {R"(, "date_expiry": "2124-01-01")", State::kUnknown},
  };
  for (const auto& one : cases) {
    const std::string id = fresh_id();
    put_key(R"("_id": {"$oid": ")" + id + R"("}, "user_id": "user1")" + one.field);
    const KeyLookup found = find();
    EXPECT_EQ(found.state, one.state) << one.field << found.detail;
    if (one.state == State::kFound) {
      EXPECT_EQ(found.key.id, id);
    }
  }
}

TEST_F(MongoTest, AKeyWithoutUserIsUnusableAndNamed) {
  for (const char* field : {"", R"(, "user_id": null)", R"(, "user_id": "")"}) {
    const std::string id = fresh_id();
    put_key(R"("_id": {"$oid": ")" + id + "\"}" + field);
    const KeyLookup found = find();
    EXPECT_EQ(found.state, State::kUnusable);
    EXPECT_NE(found.detail.find(id), std::string::npos) << found.detail;
    EXPECT_NE(found.detail.find("user_id"), std::string::npos) << found.detail;
  }
}

TEST_F(MongoTest, AnIdOfAnotherTypeIsWrittenAsPythonDoesAndCanBeManaged) {
  const std::string number = std::to_string(mint_.mint(kNow).bytes[11] + 1'000'000);
  const struct {
    std::string json, text;
  } cases[] = {{"\"key of " + secret_ + "\"", "key of " + secret_},
               {R"({"$numberLong": ")" + number + "\"}", number}};
  for (const auto& one : cases) {
    put_key(R"("_id": )" + one.json + R"(, "user_id": "user1")");
    EXPECT_EQ(find().key.id, one.text);
    EXPECT_EQ(database_->set_key_expiry(one.text, kNow).value(), true);
    EXPECT_EQ(find().state, State::kUnknown);
    EXPECT_EQ(database_->delete_key(one.text).value(), true);
  }
}

TEST_F(MongoTest, UserIdKeepsItsTypeFromKeyToEvent) {
  for (const char* user :
       {R"("user1")", R"({ "$oid" : "507f1f77bcf86cd799439011" })", R"({ "$numberInt" : "7" })",
        R"({ "$numberLong" : "7" })", R"({ "$numberDouble" : "7.5" })",
        R"({ "$binary" : { "base64" : "AAECAwQFBgcICQoLDA0ODw==", "subType" : "04" } })"}) {
    put_key(R"("_id": {"$oid": ")" + fresh_id() + R"("}, "user_id": )" + user);
    const KeyLookup found = find();
    ASSERT_EQ(found.state, State::kFound) << user << found.detail;
    Event event{.id = mint_.mint(kNow),
                .date_created = kNow,
                .user_id = found.key.user_id,
                .api_key_id = found.key.id,
                .model = "m",
                .prompt_n = 1,
                .completion_n = 2'147'483'648};
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(database_->write_events({&event, 1}).deliveries, std::vector{Delivery::kDelivered});
    }
    EXPECT_EQ(stored_event(event.id),
              R"({ "_id" : { "$oid" : ")" + event.id.hex() +
                  R"(" }, "date_created" : { "$date" : { "$numberLong" : "1795435200000" } }, )"
                  R"("user_id" : )" +
                  user + R"(, "api_key_id" : ")" + found.key.id +
                  R"(", "model" : "m", "prompt_n" : { "$numberInt" : "1" }, )"
                  R"("completion_n" : { "$numberLong" : "2147483648" } })");
  }
}

// Port 1 of this machine: nobody listens there.
TEST(AbsentMongo, OpensAndSaysSoOnEachCall) {
  auto opened = open_database(
      "mongodb://user:hunter2secret@127.0.0.1:1/?serverSelectionTimeoutMS=50&connectTimeoutMS=50");
  ASSERT_TRUE(opened) << opened.error().message;
  Database& database = **opened;
  const KeyLookup found = database.find_key("hash", "COMPLETION", kNow);
  EXPECT_EQ(found.state, State::kUnavailable);
  EXPECT_NE(found.detail.find("127.0.0.1:1"), std::string::npos) << found.detail;
  const std::array<Event, 2> events{};
  const BatchResult written = database.write_events(events);
  EXPECT_EQ(written.deliveries, std::vector(2, Delivery::kRetry));
  NewKey key{};
  key.secret_hex = "hash";
  const auto created = database.create_key(key);
  ASSERT_FALSE(created);
  EXPECT_EQ(created.error().status, 503);
  EXPECT_FALSE(database.list_keys());
  EXPECT_FALSE(database.set_key_expiry("id", kNow));
  EXPECT_FALSE(database.delete_key("id"));
  for (const std::string& text :
       {found.detail, written.detail, created.error().message, database.check()}) {
    EXPECT_NE(text, "");
    EXPECT_EQ(text.find("hunter2secret"), std::string::npos) << text;
  }
}

TEST(AbsentMongo, AUriThatCannotBeReadIsToldWithoutItsPassword) {
  for (const char* uri :
       {"mongodb://", "mongodb://user:hunter2secret@", "mongodb://user:hunter2secret@host:99999",
        "mongodb://us@er:hunter2secret@host", "mongodb://user:hunter2secret%zz@host",
        "mongodb+srv://user:hunter2secret@host:27017/"}) {
    const auto opened = open_database(uri);
    ASSERT_FALSE(opened) << uri;
    EXPECT_NE(opened.error().message.find("MongoDB URI"), std::string::npos)
        << opened.error().message;
    EXPECT_EQ(opened.error().message.find("hunter2secret"), std::string::npos)
        << opened.error().message;
  }
}

}  // namespace
}  // namespace llmproxy
