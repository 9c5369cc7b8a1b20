// The records of the ledger: what each says, and its bytes. Pure: no files, no clocks.
//
// Integers are little-endian. text is a u32 length and that many bytes; typed is a u8 BSON type, a
// text of the value's BSON bytes, and a text of what people see.
//
// clang-format off
//   intent     = id[12]  i64 time  typed user_id  text api_key_id  text model  text backend
//                u8 flags
//   progress   = id[12]  i64 prompt_n  i64 completion_n  u8 is_final
//   event      = id[12]  i64 date_created  typed user_id  text api_key_id  text model
//                i64 prompt_n  i64 completion_n  u8 origin
//   free       = id[12]  text reason  u8 origin
//   unresolved = intent with flags 0  i64 date_created  text reason
//   mark       = u64 sequence
//   dead       = event without its origin  text reason  u8 kind
//   closed     = id[12]
// clang-format on
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "api/usage.h"
#include "billing/event.h"
#include "billing/intent.h"

namespace llmproxy {

// How a request came to its outcome. Counted apart.
enum class Origin : uint8_t {
  kRequest = 0,    // the request itself
  kRecovered = 1,  // by the start after a crash: from the intent and what was durable of it
  kLate = 2,       // a figure that came after the request had been settled as unresolved
  kByHand = 3,     // `ledger resolve`, `ledger dead`
};

// A stream is about to begin (I1). Written again when its segment goes.
struct IntentRecord {
  Intent intent;
  // Running figures may make the bill: a backend set to `continuous`, one choice, one prompt.
  bool may_bill_running = false;
  bool operator==(const IntentRecord&) const = default;
};

// The latest figure of an open stream. Only of intents that may be billed from it, or final ones.
struct ProgressRecord {
  ObjectId id;
  Figure figure;
  bool is_final = false;
  bool operator==(const ProgressRecord&) const = default;
};

// A bill. It closes the intent, or the unresolved record, of its id.
struct EventRecord {
  Event event;
  Origin origin = Origin::kRequest;
  bool operator==(const EventRecord&) const = default;
};

// Nothing is owed. Closes as EventRecord does.
struct FreeRecord {
  ObjectId id;
  std::string reason;
  Origin origin = Origin::kRequest;
  bool operator==(const FreeRecord&) const = default;
};

// What it cost cannot be known. Stays until a late figure or a person resolves it.
struct UnresolvedRecord {
  Intent intent;
  WallMs date_created = 0;
  std::string reason;
  bool operator==(const UnresolvedRecord&) const = default;
};

// All records up to this sequence are settled with the database: delivered, or dead, or no events.
struct MarkRecord {
  uint64_t sequence = 0;
  bool operator==(const MarkRecord&) const = default;
};

// An event that is not sent any more until a person says so.
struct DeadRecord {
  enum class Kind : uint8_t {
    kRefused = 0,   // the database can never take it as it is
    kWithheld = 1,  // older than max_replay_age: its document may have been archived meanwhile
  };
  Event event;
  std::string reason;
  Kind kind = Kind::kRefused;
  bool operator==(const DeadRecord&) const = default;
};

// The dead event of this id is dead no more: an EventRecord before it took its place, or a person
// gave it up.
struct ClosedRecord {
  ObjectId id;
  bool operator==(const ClosedRecord&) const = default;
};

// The order is that of the type byte, which begins with 1.
using Record = std::variant<IntentRecord, ProgressRecord, EventRecord, FreeRecord, UnresolvedRecord,
                            MarkRecord, DeadRecord, ClosedRecord>;

// A record's bytes without the frame (segment.h) never exceed this: reasons are cut, and a request
// whose names take more is refused (fits_record).
constexpr size_t kRecordBytesMax = 4096;
constexpr size_t kReasonBytesMax = 256;
// What a record of a request takes at most beside its names: a dead event does.
constexpr size_t kRecordFixedBytesMax = 58 + kReasonBytesMax;
// Of a key: its id, and its user_id as BSON and as text, together.
constexpr size_t kKeyBytesMax = 2048;
// Of a model and its backend, together.
constexpr size_t kModelBytesMax = kRecordBytesMax - kRecordFixedBytesMax - kKeyBytesMax;

// Every record that may come of it fits: its intent, its event, and that event when it is dead.
bool fits_record(const Intent& intent);
// So does every request of this key, if model and backend are within kModelBytesMax.
bool fits_record(const Key& key);

uint8_t record_type(const Record& record);
void append_record(std::string& out, const Record& record);

// Nothing: an unknown type, or bytes that are not exactly one record of it; an intent or event of
// which no outcome would fit. Any bytes.
std::optional<Record> read_record(uint8_t type, std::string_view bytes);

// The id a record is about; nothing for a mark.
std::optional<ObjectId> record_id(const Record& record);

bool is_by_hand(const Record& record);  // an event, or free, by a person's word

}  // namespace llmproxy
