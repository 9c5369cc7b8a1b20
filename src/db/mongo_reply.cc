// The rules of reading an insert's reply: when in doubt, nothing is proven and the document goes
// again under the same _id.
#include "db/mongo_reply.h"

#include <fmt/format.h>
#include <mongoc/mongoc.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace llmproxy {
namespace {

constexpr std::array kDuplicateCodes = {11000, 11001, 12582};

// The document's own fault: validation, size, names, values.
constexpr std::array kDocumentCodes = {
    2,      // BadValue
    9,      // FailedToParse
    14,     // TypeMismatch
    22,     // InvalidBSON
    52,     // DollarPrefixedFieldName
    57,     // DottedFieldName
    66,     // ImmutableField
    121,    // DocumentValidationFailure
    10334,  // BSONObjectTooLarge
    17280,  // KeyTooLong
    17419,  // resulting document too large
    17420,  // document too large
};

// Nothing about the documents: time, disk, rights, topology. They go again, for ever.
constexpr std::array kPassingCodes = {
    6,      // HostUnreachable
    7,      // HostNotFound
    11,     // UserNotFound
    13,     // Unauthorized
    18,     // AuthenticationFailed
    20,     // IllegalOperation: transaction numbers where there are none (retryWrites=false helps)
    24,     // LockTimeout
    26,     // NamespaceNotFound
    46,     // LockBusy
    50,     // MaxTimeMSExpired
    61,     // ShardKeyNotFound while a collection is being moved
    63,     // StaleShardVersion
    64,     // WriteConcernFailed
    70,     // ShardNotFound
    79,     // UnknownReplWriteConcern
    82,     // ProtocolError
    89,     // NetworkTimeout
    91,     // ShutdownInProgress
    100,    // UnsatisfiableWriteConcern
    101,    // ResourceInvalidated
    112,    // WriteConflict
    117,    // ConflictingOperationInProgress
    133,    // FailedToSatisfyReadPreference
    134,    // ReadConcernMajorityNotAvailableYet
    146,    // ExceededMemoryLimit
    150,    // StaleEpoch
    175,    // QueryPlanKilled
    189,    // PrimarySteppedDown
    202,    // NetworkInterfaceExceededTimeLimit
    211,    // KeyNotFound
    249,    // StaleChunkHistory
    250,    // StaleDbVersion
    262,    // ExceededTimeLimit
    301,    // retryable writes that the storage engine does not support
    317,    // ConnectionPoolExpired
    384,    // ConnectionError
    391,    // ReauthenticationRequired
    462,    // IngressRequestRateLimitExceeded
    8000,   // AtlasError
    9001,   // SocketException
    10107,  // NotWritablePrimary
    11600,  // InterruptedAtShutdown
    11601,  // Interrupted
    11602,  // InterruptedDueToReplStateChange
    13297,  // DatabaseDifferCase
    13388,  // StaleConfig
    13435,  // NotPrimaryNoSecondaryOk
    13436,  // NotPrimaryOrSecondary
    14031,  // OutOfDiskSpace
    16500,  // request rate too large (other vendors)
};

template <size_t N>
bool contains(const std::array<int, N>& codes, int64_t code) {
  return std::find(codes.begin(), codes.end(), code) != codes.end();
}

int64_t number(const bson_t& document, const char* key, int64_t otherwise) {
  bson_iter_t value;
  const bool is_there =
      bson_iter_init_find(&value, &document, key) && BSON_ITER_HOLDS_NUMBER(&value);
  return is_there ? bson_iter_as_int64(&value) : otherwise;
}

std::string_view text(const bson_t& document, const char* key) {
  bson_iter_t value;
  if (!bson_iter_init_find(&value, &document, key) || !BSON_ITER_HOLDS_UTF8(&value)) return "";
  uint32_t size = 0;
  const char* bytes = bson_iter_utf8(&value, &size);
  return {bytes, size};
}

// Calls `visit(bson_t)` for each document of the array `key`; false when there is none.
template <class Visit>
bool for_each(const bson_t& reply, const char* key, Visit&& visit) {
  bson_iter_t array, item;
  if (!bson_iter_init_find(&array, &reply, key) || !BSON_ITER_HOLDS_ARRAY(&array)) return false;
  if (!bson_iter_recurse(&array, &item)) return false;
  bool is_any = false;
  while (bson_iter_next(&item)) {
    if (!BSON_ITER_HOLDS_DOCUMENT(&item)) continue;
    uint32_t size = 0;
    const uint8_t* bytes = nullptr;
    bson_iter_document(&item, &size, &bytes);
    bson_t document;
    if (!bson_init_static(&document, bytes, size)) continue;
    visit(document);
    is_any = true;
  }
  return is_any;
}

// By keyPattern where the server has it (4.2 and later), else by the message: "index: _id_ dup key:
// ...", formerly "index: DATABASE.COLLECTION.$_id_ dup key: ...".
Verdict which_duplicate(const bson_t& write_error) {
  bson_iter_t pattern, key;
  if (bson_iter_init_find(&pattern, &write_error, "keyPattern") &&
      bson_iter_recurse(&pattern, &key) && bson_iter_next(&key)) {
    const bool is_id = std::string_view(bson_iter_key(&key)) == "_id";
    return is_id ? Verdict::kDuplicate : Verdict::kDuplicateElsewhere;
  }
  constexpr std::string_view kMark = "index: ";
  std::string_view message = text(write_error, "errmsg");
  const size_t mark = message.find(kMark);
  if (mark == std::string_view::npos) return Verdict::kDuplicate;
  std::string_view index = message.substr(mark + kMark.size());
  index = index.substr(0, index.find(' '));
  index = index.substr(index.rfind('$') + 1);
  return index == "_id_" ? Verdict::kDuplicate : Verdict::kDuplicateElsewhere;
}

Verdict judge_code(int64_t code) {
  if (contains(kPassingCodes, code)) return Verdict::kRetry;
  if (contains(kDocumentCodes, code)) return Verdict::kRefused;
  return Verdict::kAlone;
}

// The call failed as a whole.
Verdict judge_failure(const bson_t& reply, const bson_error_t& error, size_t documents) {
  if (mongoc_error_has_label(&reply, "RetryableWriteError")) return Verdict::kRetry;
  const bool is_servers = error.domain == MONGOC_ERROR_SERVER;
  // The driver itself found the document too large or malformed, and sent nothing of it.
  const bool is_drivers =
      error.domain == MONGOC_ERROR_BSON ||
      (error.domain == MONGOC_ERROR_COMMAND && error.code == MONGOC_ERROR_COMMAND_INVALID_ARG);
  if (!is_servers && !is_drivers) return Verdict::kRetry;
  if (is_servers && contains(kPassingCodes, error.code)) return Verdict::kRetry;
  // One document's fault, but nobody says whose.
  if (documents > 1 || !is_servers) return Verdict::kAlone;
  return judge_code(error.code);
}

}  // namespace

InsertReply read_insert_reply(bool is_ok, const bson_t& reply, const bson_error_t& error,
                              size_t documents) {
  const auto all = [documents](Verdict verdict, std::string detail) {
    return InsertReply{std::vector<Verdict>(documents, verdict), std::move(detail)};
  };
  std::string concern;
  for_each(reply, "writeConcernErrors", [&](const bson_t& one) {
    concern =
        fmt::format("write concern: {} (code {})", text(one, "errmsg"), number(one, "code", 0));
  });
  if (!concern.empty()) return all(Verdict::kRetry, concern);
  if (is_ok) {
    const int64_t inserted = number(reply, "insertedCount", -1);
    if (inserted == static_cast<int64_t>(documents)) return all(Verdict::kDelivered, "");
    return all(Verdict::kRetry, fmt::format("{} of {} acknowledged", inserted, documents));
  }
  // A lost connection, or the like, leaves even what was answered before it unproven.
  const bool is_answered = error.domain == MONGOC_ERROR_SERVER;
  InsertReply result = all(Verdict::kDelivered, "");
  bool is_sound = true;
  int64_t answered = number(reply, "insertedCount", 0);
  const bool has_errors = for_each(reply, "writeErrors", [&](const bson_t& one) {
    const int64_t index = number(one, "index", -1);
    if (index < 0 || index >= static_cast<int64_t>(documents)) {
      is_sound = false;
      return;
    }
    ++answered;
    const int64_t code = number(one, "code", 0);
    const bool is_duplicate = contains(kDuplicateCodes, code);
    result.verdicts[static_cast<size_t>(index)] =
        is_duplicate ? which_duplicate(one) : judge_code(code);
    if (!is_duplicate && result.detail.empty()) {
      result.detail = fmt::format("{} (code {})", text(one, "errmsg"), code);
    }
  });
  // Fewer answers than documents: the driver split the batch and a part was never sent. More is
  // normal for servers that count duplicates as inserted.
  if (answered < static_cast<int64_t>(documents)) is_sound = false;
  if (is_answered && has_errors && is_sound) return result;
  // The driver had split the batch, and pieces after the one that failed have wiped its error out:
  // smaller batches are not split.
  const bool is_wiped = documents > 1 && (error.code == 0 || (is_answered && has_errors));
  return all(is_wiped     ? Verdict::kAlone
             : has_errors ? Verdict::kRetry
                          : judge_failure(reply, error, documents),
             fmt::format("{} (code {})", error.message, error.code));
}

}  // namespace llmproxy
