// What the answer to an unordered insert proves about each document. Only reads: no connection, no
// retry.
#pragma once

#include <bson/bson.h>

#include <string>
#include <vector>

namespace llmproxy {

enum class Verdict : uint8_t {
  kDelivered,  // acknowledged by a majority and journalled
  kRetry,      // proves nothing: network, change of primary, write concern, authorization, ...
  kRefused,    // this document can never be taken
  kDuplicate,  // something is stored under its _id (or a server does not say which index)
  kDuplicateElsewhere,  // another unique index refused it; its _id may be stored all the same
  kAlone,               // an error that does not say whose fault it is: send in smaller parts
};

struct InsertReply {
  std::vector<Verdict> verdicts;  // one per document
  std::string detail{};           // the first error, for the log
};

// `is_ok`, `reply` and `error` as mongoc_collection_insert_many gave them (error API version 2).
InsertReply read_insert_reply(bool is_ok, const bson_t& reply, const bson_error_t& error,
                              size_t documents);

}  // namespace llmproxy
