// Replies of servers that the tests cannot make a real one give: each with what it proves of each
// document.
#include "db/mongo_reply.h"

#include <gtest/gtest.h>
#include <mongoc/mongoc.h>

#include "db/mongo_document.h"

namespace llmproxy {
namespace {

using enum Verdict;

InsertReply read(bool is_ok, const std::string& json, uint32_t domain, uint32_t code, size_t n) {
  bson_error_t error{};
  bson_t* reply = bson_new_from_json(reinterpret_cast<const uint8_t*>(json.data()),
                                     static_cast<ssize_t>(json.size()), &error);
  EXPECT_NE(reply, nullptr) << json << " " << error.message;
  bson_set_error(&error, domain, code, "%s", "what the driver says");
  InsertReply result = read_insert_reply(is_ok, *reply, error, n);
  bson_destroy(reply);
  return result;
}

std::string write_error(int code, const std::string& more) {
  return R"({"insertedCount": 2, "writeErrors": [{"index": 1, "code": )" + std::to_string(code) +
         more + "}]}";
}

TEST(InsertReplyTest, OnlyAFullAcknowledgementDelivers) {
  EXPECT_EQ(read(true, R"({"insertedCount": 3})", 0, 0, 3).verdicts, std::vector(3, kDelivered));
  EXPECT_EQ(read(true, R"({"insertedCount": 2})", 0, 0, 3).verdicts, std::vector(3, kRetry));
  EXPECT_EQ(read(true, "{}", 0, 0, 1).verdicts, std::vector(1, kRetry));
}

TEST(InsertReplyTest, AnyWriteConcernErrorProvesNothing) {
  for (const int code : {64, 91, 100, 79, 12345}) {
    const std::string concern = R"("writeConcernErrors": [{"code": )" + std::to_string(code) +
                                R"(, "errmsg": "waiting for replication timed out"}])";
    const auto alone = read(false, R"({"insertedCount": 3, )" + concern + "}",
                            MONGOC_ERROR_WRITE_CONCERN, static_cast<uint32_t>(code), 3);
    EXPECT_EQ(alone.verdicts, std::vector(3, kRetry)) << code;
    EXPECT_NE(alone.detail.find("replication"), std::string::npos) << alone.detail;
    const auto beside =
        read(false,
             R"({"insertedCount": 2, "writeErrors": [{"index": 0, "code": 121}], )" + concern + "}",
             MONGOC_ERROR_SERVER, 121, 3);
    EXPECT_EQ(beside.verdicts, std::vector(3, kRetry)) << code;
  }
}

TEST(InsertReplyTest, EachDocumentByItsOwnError) {
  const struct {
    int code;
    const char* more;
    Verdict verdict;
  } cases[] = {
      {121, R"(, "errmsg": "Document failed validation")", kRefused},
      {10334, "", kRefused},
      {2, "", kRefused},
      {10107, "", kRetry},
      {189, "", kRetry},
      {11602, "", kRetry},
      {13, "", kRetry},
      {14031, "", kRetry},
      {4242424, "", kAlone},
      {11000, R"(, "errmsg": "E11000 duplicate key error collection: b.e index: _id_ dup key: {}")",
       kDuplicate},
      {11000, R"(, "errmsg": "E11000 duplicate key error index: b.e.$_id_ dup key: { : 1 }")",
       kDuplicate},
      {11000,
       R"(, "errmsg": "E11000 duplicate key error collection: b.e index: user_id_ dup key: {}")",
       kDuplicateElsewhere},
      {11000, R"(, "errmsg": "x index: _id_ dup key", "keyPattern": {"model": 1})",
       kDuplicateElsewhere},
      {11000, R"(, "errmsg": "x", "keyPattern": {"_id": 1})", kDuplicate},
      {11000, R"(, "errmsg": "duplicate, says another vendor")", kDuplicate},
      {11001, R"(, "errmsg": "index: _id_ dup key")", kDuplicate},
  };
  for (const auto& one : cases) {
    const auto result = read(false, write_error(one.code, one.more), MONGOC_ERROR_SERVER,
                             static_cast<uint32_t>(one.code), 3);
    EXPECT_EQ(result.verdicts, (std::vector{kDelivered, one.verdict, kDelivered}))
        << one.code << one.more;
  }
}

TEST(InsertReplyTest, ErrorsThatDoNotCoverTheBatchProveNothing) {
  const std::string error = R"("writeErrors": [{"index": 0, "code": 121}]})";
  EXPECT_EQ(read(false, R"({"insertedCount": 1, )" + error, MONGOC_ERROR_SERVER, 121, 3).verdicts,
            std::vector(3, kAlone))
      << "a part was never sent: again, in smaller parts";
  EXPECT_EQ(read(false, R"({"insertedCount": 2, )" + error, MONGOC_ERROR_STREAM, 4, 3).verdicts,
            std::vector(3, kRetry))
      << "the connection was lost";
  EXPECT_EQ(read(false, R"({"insertedCount": 2, "writeErrors": [{"index": 3, "code": 121}]})",
                 MONGOC_ERROR_SERVER, 121, 3)
                .verdicts,
            std::vector(3, kAlone))
      << "an index beyond the batch";
  EXPECT_EQ(read(false, R"({"insertedCount": 0, "writeErrors": [{"index": 3, "code": 121}]})",
                 MONGOC_ERROR_SERVER, 121, 1)
                .verdicts,
            std::vector(1, kRetry))
      << "and of one document alone";
  EXPECT_EQ(read(false, R"({"insertedCount": 3, )" + error, MONGOC_ERROR_SERVER, 121, 3).verdicts,
            (std::vector{kRefused, kDelivered, kDelivered}))
      << "some servers count a refused document as inserted";
}

TEST(InsertReplyTest, AFailureOfTheWholeCall) {
  const struct {
    const char* reply;
    uint32_t domain, code;
    size_t documents;
    Verdict verdict;
  } cases[] = {
      {"{}", MONGOC_ERROR_STREAM, MONGOC_ERROR_STREAM_SOCKET, 2, kRetry},
      {"{}", MONGOC_ERROR_SERVER_SELECTION, MONGOC_ERROR_SERVER_SELECTION_FAILURE, 2, kRetry},
      {"{}", MONGOC_ERROR_CLIENT, MONGOC_ERROR_CLIENT_AUTHENTICATE, 1, kRetry},
      {"{}", MONGOC_ERROR_SERVER, 10107, 1, kRetry},
      {"{}", MONGOC_ERROR_SERVER, 13, 1, kRetry},
      {R"({"errorLabels": ["RetryableWriteError"]})", MONGOC_ERROR_SERVER, 4242424, 1, kRetry},
      {"{}", MONGOC_ERROR_SERVER, 10334, 1, kRefused},
      {"{}", MONGOC_ERROR_SERVER, 10334, 2, kAlone},
      {"{}", MONGOC_ERROR_SERVER, 4242424, 2, kAlone},
      {"{}", MONGOC_ERROR_SERVER, 4242424, 1, kAlone},
      {"{}", MONGOC_ERROR_BSON, MONGOC_ERROR_BSON_INVALID, 2, kAlone},
      {"{}", MONGOC_ERROR_COMMAND, MONGOC_ERROR_COMMAND_INVALID_ARG, 1, kAlone},
  };
  for (const auto& one : cases) {
    const auto result = read(false, one.reply, one.domain, one.code, one.documents);
    EXPECT_EQ(result.verdicts, std::vector(one.documents, one.verdict))
        << one.reply << " " << one.domain << " " << one.code;
    EXPECT_NE(result.detail.find("driver says"), std::string::npos);
  }
}

}  // namespace
}  // namespace llmproxy
