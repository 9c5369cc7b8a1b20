// Records to bytes and back. Whatever cannot be read exactly is no record.
#include "billing/record.h"

#include <algorithm>

#include "base/check.h"
#include "billing/bytes.h"

namespace llmproxy {
namespace {

constexpr uint8_t kMayBillRunning = 1;

void append_id(std::string& out, const ObjectId& id) {
  out.append(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size());
}

void append_typed(std::string& out, const TypedValue& value) {
  append_number(out, value.bson_type);
  append_text(out, value.bytes);
  append_text(out, value.text);
}

void append_reason(std::string& out, std::string_view reason) {
  append_text(out, reason.substr(0, kReasonBytesMax));
}

void append_event(std::string& out, const Event& event) {
  append_id(out, event.id);
  append_number(out, event.date_created);
  append_typed(out, event.user_id);
  append_text(out, event.api_key_id);
  append_text(out, event.model);
  append_number(out, event.prompt_n);
  append_number(out, event.completion_n);
}

void append_intent(std::string& out, const Intent& intent, uint8_t flags) {
  append_id(out, intent.id);
  append_number(out, intent.time);
  append_typed(out, intent.user_id);
  append_text(out, intent.api_key_id);
  append_text(out, intent.model);
  append_text(out, intent.backend);
  append_number(out, flags);
}

struct Appender {
  std::string& out;

  void operator()(const IntentRecord& record) const {
    append_intent(out, record.intent, record.may_bill_running ? kMayBillRunning : 0);
  }
  void operator()(const ProgressRecord& record) const {
    append_id(out, record.id);
    append_number(out, record.figure.prompt_n);
    append_number(out, record.figure.completion_n);
    append_number(out, static_cast<uint8_t>(record.is_final));
  }
  void operator()(const EventRecord& record) const {
    append_event(out, record.event);
    append_number(out, static_cast<uint8_t>(record.origin));
  }
  void operator()(const FreeRecord& record) const {
    append_id(out, record.id);
    append_reason(out, record.reason);
    append_number(out, static_cast<uint8_t>(record.origin));
  }
  void operator()(const UnresolvedRecord& record) const {
    append_intent(out, record.intent, 0);
    append_number(out, record.date_created);
    append_reason(out, record.reason);
  }
  void operator()(const MarkRecord& record) const { append_number(out, record.sequence); }
  void operator()(const DeadRecord& record) const {
    append_event(out, record.event);
    append_reason(out, record.reason);
    append_number(out, static_cast<uint8_t>(record.kind));
  }
  void operator()(const ClosedRecord& record) const { append_id(out, record.id); }
};

ObjectId read_id(ByteReader& in) {
  ObjectId id;
  const std::string_view bytes = in.take(id.bytes.size());
  std::copy(bytes.begin(), bytes.end(), id.bytes.begin());
  return id;
}

TypedValue read_typed(ByteReader& in) {
  TypedValue value;
  value.bson_type = in.number<uint8_t>();
  value.bytes = in.text();
  value.text = in.text();
  return value;
}

Event read_event(ByteReader& in) {
  Event event;
  event.id = read_id(in);
  event.date_created = in.number<WallMs>();
  event.user_id = read_typed(in);
  event.api_key_id = in.text();
  event.model = in.text();
  event.prompt_n = in.number<int64_t>();
  event.completion_n = in.number<int64_t>();
  return event;
}

Intent read_intent(ByteReader& in, uint8_t& flags) {
  Intent intent;
  intent.id = read_id(in);
  intent.time = in.number<WallMs>();
  intent.user_id = read_typed(in);
  intent.api_key_id = in.text();
  intent.model = in.text();
  intent.backend = in.text();
  flags = in.number<uint8_t>();
  return intent;
}

// An enumerator of E, whose last one is `last`; else `is_valid` becomes false.
template <class E>
E read_enum(ByteReader& in, E last, bool& is_valid) {
  const auto value = in.number<uint8_t>();
  is_valid &= value <= static_cast<uint8_t>(last);
  return static_cast<E>(value);
}

// The bytes of the names in a record.
size_t key_bytes(const TypedValue& user_id, std::string_view api_key_id) {
  return user_id.bytes.size() + user_id.text.size() + api_key_id.size();
}

bool fits_names(size_t bytes) {
  return bytes <= kRecordBytesMax - kRecordFixedBytesMax;
}

bool fits_event(const Event& event) {
  return fits_names(key_bytes(event.user_id, event.api_key_id) + event.model.size());
}

bool is_count(int64_t count) {
  return count >= 0 && count <= kCountMax;
}

Record read_body(uint8_t type, ByteReader& in, bool& is_valid) {
  uint8_t flags = 0;
  switch (type) {
    case 1: {
      IntentRecord record{.intent = read_intent(in, flags)};
      record.may_bill_running = flags == kMayBillRunning;
      is_valid = flags <= kMayBillRunning && fits_record(record.intent);
      return record;
    }
    case 2: {
      ProgressRecord record;
      record.id = read_id(in);
      record.figure.prompt_n = in.number<int64_t>();
      record.figure.completion_n = in.number<int64_t>();
      const auto is_final = in.number<uint8_t>();
      record.is_final = is_final == 1;
      is_valid =
          is_final <= 1 && is_count(record.figure.prompt_n) && is_count(record.figure.completion_n);
      return record;
    }
    case 3: {
      EventRecord record{.event = read_event(in)};
      is_valid = is_count(record.event.prompt_n) && is_count(record.event.completion_n) &&
                 fits_event(record.event);
      record.origin = read_enum(in, Origin::kByHand, is_valid);
      return record;
    }
    case 4: {
      FreeRecord record{.id = read_id(in), .reason = std::string(in.text())};
      record.origin = read_enum(in, Origin::kByHand, is_valid);
      return record;
    }
    case 5: {
      UnresolvedRecord record;
      record.intent = read_intent(in, flags);
      record.date_created = in.number<WallMs>();
      record.reason = in.text();
      is_valid = flags == 0;
      return record;
    }
    case 6:
      return MarkRecord{in.number<uint64_t>()};
    case 7: {
      DeadRecord record{.event = read_event(in), .reason = std::string(in.text())};
      is_valid = is_count(record.event.prompt_n) && is_count(record.event.completion_n);
      record.kind = read_enum(in, DeadRecord::Kind::kWithheld, is_valid);
      return record;
    }
    default:
      return ClosedRecord{read_id(in)};
  }
}

struct IdOf {
  std::optional<ObjectId> operator()(const IntentRecord& record) const { return record.intent.id; }
  std::optional<ObjectId> operator()(const ProgressRecord& record) const { return record.id; }
  std::optional<ObjectId> operator()(const EventRecord& record) const { return record.event.id; }
  std::optional<ObjectId> operator()(const FreeRecord& record) const { return record.id; }
  std::optional<ObjectId> operator()(const UnresolvedRecord& record) const {
    return record.intent.id;
  }
  std::optional<ObjectId> operator()(const MarkRecord&) const { return std::nullopt; }
  std::optional<ObjectId> operator()(const DeadRecord& record) const { return record.event.id; }
  std::optional<ObjectId> operator()(const ClosedRecord& record) const { return record.id; }
};

}  // namespace

bool fits_record(const Intent& intent) {
  return fits_names(key_bytes(intent.user_id, intent.api_key_id) + intent.model.size() +
                    intent.backend.size());
}

bool fits_record(const Key& key) {
  return key_bytes(key.user_id, key.id) <= kKeyBytesMax;
}

uint8_t record_type(const Record& record) {
  return static_cast<uint8_t>(record.index() + 1);
}

void append_record(std::string& out, const Record& record) {
  const size_t begin = out.size();
  std::visit(Appender{out}, record);
  LLMPROXY_CHECK(out.size() - begin <= kRecordBytesMax);
}

std::optional<Record> read_record(uint8_t type, std::string_view bytes) {
  if (type == 0 || type > std::variant_size_v<Record> || bytes.size() > kRecordBytesMax)
    return std::nullopt;
  ByteReader in(bytes);
  bool is_valid = true;
  Record record = read_body(type, in, is_valid);
  if (!is_valid || !in.is_at_end()) return std::nullopt;
  return record;
}

std::optional<ObjectId> record_id(const Record& record) {
  return std::visit(IdOf{}, record);
}

bool is_by_hand(const Record& record) {
  const auto* const event = std::get_if<EventRecord>(&record);
  const auto* const free = std::get_if<FreeRecord>(&record);
  return (event != nullptr && event->origin == Origin::kByHand) ||
         (free != nullptr && free->origin == Origin::kByHand);
}

}  // namespace llmproxy
