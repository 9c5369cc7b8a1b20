// Each kind of record to bytes and back, and everything that is not exactly one record.
#include "billing/record.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "billing/bytes.h"

namespace llmproxy {
namespace {

constexpr int64_t kTimeMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kTimeMax = std::numeric_limits<int64_t>::max();

ObjectId id(uint8_t number) {
  ObjectId id;
  id.bytes.fill(0xff);
  id.bytes[11] = number;
  return id;
}

std::string binary() {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  return all;
}

Intent intent() {
  return {.id = id(1),
          .time = kTimeMin,
          .user_id = {.bson_type = 0xff, .bytes = binary(), .text = "user"},
          .api_key_id = "key",
          .model = std::string("mo\0del", 6),
          .backend = "\xff\xfe"};
}

Event event() {
  return {.id = id(2),
          .date_created = kTimeMax,
          .user_id = {.bson_type = 0x07, .bytes = binary(), .text = std::string(1, '\0')},
          .api_key_id = "",
          .model = "m",
          .prompt_n = 0,
          .completion_n = kCountMax};
}

// As long as a key and the configuration allow.
Intent long_intent() {
  Intent one = intent();
  one.user_id.bytes = std::string(kKeyBytesMax / 2, '\xff');
  one.user_id.text = std::string(kKeyBytesMax / 2 - 24, 'u');
  one.api_key_id = std::string(24, 'k');
  one.model = std::string(1024, 'm');
  one.backend = std::string(256, 'b');
  return one;
}

Event long_event() {
  const Intent from = long_intent();
  Event one = event();
  one.user_id = from.user_id;
  one.api_key_id = from.api_key_id;
  one.model = from.model;
  return one;
}

// Every kind, each with its least and its greatest values.
std::vector<Record> records() {
  const std::string reason(kReasonBytesMax, 'r');
  return {
      IntentRecord{intent(), false},
      IntentRecord{{}, true},
      IntentRecord{long_intent(), true},
      ProgressRecord{id(3), {0, 0}, false},
      ProgressRecord{id(3), {kCountMax, kCountMax}, true},
      EventRecord{event(), Origin::kRequest},
      EventRecord{{}, Origin::kRecovered},
      EventRecord{event(), Origin::kLate},
      EventRecord{long_event(), Origin::kByHand},
      FreeRecord{id(4), "", Origin::kRequest},
      FreeRecord{id(4), reason, Origin::kByHand},
      UnresolvedRecord{intent(), kTimeMax, "why"},
      UnresolvedRecord{{}, kTimeMin, ""},
      UnresolvedRecord{long_intent(), 0, reason},
      MarkRecord{0},
      MarkRecord{std::numeric_limits<uint64_t>::max()},
      DeadRecord{event(), "", DeadRecord::Kind::kRefused},
      DeadRecord{long_event(), reason, DeadRecord::Kind::kWithheld},
      ClosedRecord{id(5)},
  };
}

std::string bytes_of(const Record& record) {
  std::string bytes;
  append_record(bytes, record);
  return bytes;
}

TEST(Record, EveryKindComesBackAsItWas) {
  for (const Record& record : records()) {
    std::string bytes = "before";
    append_record(bytes, record);
    ASSERT_TRUE(bytes.starts_with("before"));
    bytes.erase(0, 6);
    EXPECT_LE(bytes.size(), kRecordBytesMax);
    const std::optional<Record> read = read_record(record_type(record), bytes);
    ASSERT_TRUE(read) << int(record_type(record));
    EXPECT_EQ(*read, record) << int(record_type(record));
  }
}

// What is on disks already: these bytes keep their meaning.
TEST(Record, TypesAndBytesAreFixed) {
  EXPECT_EQ(record_type(IntentRecord{}), 1);
  EXPECT_EQ(record_type(ProgressRecord{}), 2);
  EXPECT_EQ(record_type(EventRecord{}), 3);
  EXPECT_EQ(record_type(FreeRecord{}), 4);
  EXPECT_EQ(record_type(UnresolvedRecord{}), 5);
  EXPECT_EQ(record_type(MarkRecord{}), 6);
  EXPECT_EQ(record_type(DeadRecord{}), 7);
  EXPECT_EQ(record_type(ClosedRecord{}), 8);
  EXPECT_EQ(bytes_of(MarkRecord{0x0102030405060708}), "\x08\x07\x06\x05\x04\x03\x02\x01");
  EXPECT_EQ(bytes_of(FreeRecord{ObjectId{}, "no", Origin::kByHand}),
            std::string(12, '\0') + std::string("\2\0\0\0no\3", 7));
}

TEST(Record, EveryPrefixAndEveryExtensionIsRefused) {
  for (const Record& record : records()) {
    const std::string bytes = bytes_of(record);
    const uint8_t type = record_type(record);
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_FALSE(read_record(type, std::string_view(bytes).substr(0, size)))
          << int(type) << " of " << size;
    }
    for (int more = 0; more < 256; ++more) {
      EXPECT_FALSE(read_record(type, bytes + static_cast<char>(more))) << int(type);
    }
  }
}

TEST(Record, AnUnknownTypeIsRefused) {
  const std::string bytes = bytes_of(ClosedRecord{id(1)});
  for (int type = 0; type < 256; ++type) {
    EXPECT_EQ(read_record(static_cast<uint8_t>(type), bytes).has_value(), type == 8) << type;
  }
}

// Its last byte says so and so; all but the first `valid` values are refused.
TEST(Record, AFlagOrKindThatDoesNotExistIsRefused) {
  const struct {
    Record record;
    int valid;
  } cases[] = {
      {IntentRecord{intent(), false}, 2}, {ProgressRecord{id(1), {1, 2}, false}, 2},
      {EventRecord{event()}, 4},          {FreeRecord{id(1), "why"}, 4},
      {DeadRecord{event(), "why"}, 2},
  };
  for (const auto& [record, valid] : cases) {
    std::string bytes = bytes_of(record);
    for (int value = 0; value < 256; ++value) {
      bytes.back() = static_cast<char>(value);
      EXPECT_EQ(read_record(record_type(record), bytes).has_value(), value < valid)
          << int(record_type(record)) << ": " << value;
    }
  }
  std::string unresolved = bytes_of(UnresolvedRecord{{}, 0, ""});
  const size_t flags_at = unresolved.size() - 4 - 8 - 1;
  EXPECT_TRUE(read_record(5, unresolved));
  unresolved[flags_at] = 1;
  EXPECT_FALSE(read_record(5, unresolved)) << "an unresolved request has no flags";
}

TEST(Record, ACountThatIsNoneIsRefused) {
  const size_t event_tail = 16 + 1;  // two counts, then the origin
  const struct {
    Record record;
    size_t from_end;
  } cases[] = {
      {ProgressRecord{id(1), {1, 2}, true}, 17}, {ProgressRecord{id(1), {1, 2}, true}, 9},
      {EventRecord{event()}, event_tail},        {EventRecord{event()}, event_tail - 8},
      {DeadRecord{event(), ""}, event_tail + 4}, {DeadRecord{event(), ""}, event_tail + 4 - 8},
  };
  for (const auto& [record, from_end] : cases) {
    std::string bytes = bytes_of(record);
    for (const int64_t count : {int64_t{0}, int64_t{1}, kCountMax}) {
      put_number(bytes, bytes.size() - from_end, count);
      EXPECT_TRUE(read_record(record_type(record), bytes)) << count;
    }
    for (const int64_t count : {int64_t{-1}, kCountMax + 1, kTimeMin, kTimeMax}) {
      put_number(bytes, bytes.size() - from_end, count);
      EXPECT_FALSE(read_record(record_type(record), bytes)) << count;
    }
  }
}

// A length that goes beyond the end, or wraps around.
TEST(Record, ALengthThatLiesIsRefused) {
  const std::string good = bytes_of(FreeRecord{id(1), "why"});
  for (const uint32_t length : {0u, 2u, 4u, 5u, 0x7fffffffu, 0xfffffffcu, 0xffffffffu}) {
    std::string bytes = good;
    put_number(bytes, 12, length);
    EXPECT_FALSE(read_record(4, bytes)) << length;
  }
}

TEST(Record, ReasonsAreCut) {
  const std::string kept(kReasonBytesMax, 'a'), given = kept + "b";
  const auto reread = [](const Record& record) {
    return read_record(record_type(record), bytes_of(record)).value();
  };
  EXPECT_EQ(reread(FreeRecord{id(1), given}), Record(FreeRecord{id(1), kept}));
  EXPECT_EQ(reread(UnresolvedRecord{intent(), 1, given}),
            Record(UnresolvedRecord{intent(), 1, kept}));
  EXPECT_EQ(reread(DeadRecord{event(), given}), Record(DeadRecord{event(), kept}));
}

// Of a request that fits, every record does; of one that takes a byte more, one does not.
TEST(Record, WhatFitsDoesSoWhateverBecomesOfIt) {
  const std::string reason(kReasonBytesMax, 'r');
  Intent one = long_intent();
  EXPECT_TRUE(fits_record(one));
  const auto dead = [&] {
    Event event;
    event.user_id = one.user_id;
    event.api_key_id = one.api_key_id;
    event.model = one.model;
    return Record(DeadRecord{event, reason});
  };
  one.backend.clear();
  one.model.assign(kModelBytesMax, 'm');
  ASSERT_TRUE(fits_record(one));
  EXPECT_EQ(bytes_of(dead()).size(), kRecordBytesMax);
  EXPECT_TRUE(read_record(7, bytes_of(dead())));
  one.backend = one.model.substr(100);
  one.model.resize(100);
  ASSERT_TRUE(fits_record(one));
  for (const Record& record :
       {Record(IntentRecord{one}), Record(UnresolvedRecord{one, 0, reason})}) {
    EXPECT_TRUE(read_record(record_type(record), bytes_of(record)));
  }
  for (std::string* name :
       {&one.user_id.bytes, &one.user_id.text, &one.api_key_id, &one.model, &one.backend}) {
    *name += 'x';
    EXPECT_FALSE(fits_record(one));
    name->pop_back();
  }
  one.model += one.backend + 'x';
  EXPECT_DEATH(bytes_of(dead()), "check failed");
}

TEST(Record, AKeyIsBoundedSoThatModelsFit) {
  Key key{.id = std::string(24, 'k'), .user_id = {}, .expires = {}};
  key.user_id.bytes.assign(1'000, 'b');
  key.user_id.text.assign(kKeyBytesMax - 1'024, 't');
  EXPECT_TRUE(fits_record(key));
  Intent one{.id = id(1),
             .user_id = key.user_id,
             .api_key_id = key.id,
             .model = std::string(kModelBytesMax - 100, 'm'),
             .backend = std::string(100, 'b')};
  EXPECT_TRUE(fits_record(one));
  key.user_id.bytes += 'b';
  EXPECT_FALSE(fits_record(key));
}

// They can be framed, but a start that closes them would write what cannot be.
TEST(Record, AnIntentOrEventOfWhichNoOutcomeFitsIsNoRecord) {
  Intent one = intent();
  one.model.assign(3'000, 'm');
  Event bill = event();
  bill.model.assign(3'000, 'm');
  while (fits_record(one)) one.model += 'm';
  EXPECT_FALSE(read_record(1, bytes_of(IntentRecord{one})));
  one.model.pop_back();
  EXPECT_TRUE(read_record(1, bytes_of(IntentRecord{one})));
  const auto reads = [&] { return read_record(3, bytes_of(EventRecord{bill})).has_value(); };
  while (reads()) bill.model += 'm';
  bill.model.pop_back();
  EXPECT_EQ(bytes_of(DeadRecord{bill, std::string(kReasonBytesMax, 'r')}).size(), kRecordBytesMax);
}

TEST(Record, KnowsWhatItIsAbout) {
  EXPECT_EQ(record_id(IntentRecord{intent()}), id(1));
  EXPECT_EQ(record_id(ProgressRecord{id(9), {}}), id(9));
  EXPECT_EQ(record_id(EventRecord{event()}), id(2));
  EXPECT_EQ(record_id(FreeRecord{id(9), ""}), id(9));
  EXPECT_EQ(record_id(UnresolvedRecord{intent(), 0, ""}), id(1));
  EXPECT_EQ(record_id(MarkRecord{7}), std::nullopt);
  EXPECT_EQ(record_id(DeadRecord{event(), ""}), id(2));
  EXPECT_EQ(record_id(ClosedRecord{id(9)}), id(9));
}

}  // namespace
}  // namespace llmproxy
