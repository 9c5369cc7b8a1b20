// Headers and groups to bytes and back, and what becomes of each when bytes are missing or wrong.
#include "billing/segment.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "billing/bytes.h"
#include "billing/record.h"

namespace llmproxy {
namespace {

using HeaderState = HeaderRead::State;
using GroupState = GroupRead::State;

SegmentHeader header(size_t cutoffs, uint32_t block_bytes = 512) {
  SegmentHeader one;
  one.block_bytes = block_bytes;
  one.number = 0x0123456789abcdef;
  one.first_sequence = 0x3edcba9876543210;
  for (uint8_t i = 0; i < 16; ++i) {
    one.instance[i] = i;
    one.boot[i] = static_cast<uint8_t>(0xff - i);
  }
  one.database = "mongodb://host/db.collection";
  for (uint64_t i = 1; i <= cutoffs; ++i) one.cutoffs.push_back({i, i % 3 == 0 ? 0 : i << 40});
  return one;
}

std::string bytes_of(const SegmentHeader& header) {
  std::string bytes;
  append_header(bytes, header);
  return bytes;
}

// The size without padding, as it says itself.
size_t length_at(std::string_view bytes, size_t offset) {
  return ByteReader(bytes.substr(offset)).number<uint32_t>();
}
size_t header_length(std::string_view bytes) {
  return length_at(bytes, 16);
}
size_t group_length(std::string_view bytes) {
  return length_at(bytes, 4);
}

TEST(Segment, NamesAreNumbersOfSixteenDigits) {
  for (const uint64_t number : {uint64_t{0}, uint64_t{1}, uint64_t{0xabcdef}, kSegmentNumberMax}) {
    EXPECT_EQ(segment_number(segment_name(number)), number);
  }
  EXPECT_EQ(segment_name(0xab), "00000000000000ab.segment");
  for (const char* const name :
       {"", ".segment", "side", "00000000000000ab", "ab.segment", "00000000000000AB.segment",
        "000000000000000ab.segment", "0000000000000-ab.segment", "+0000000000000ab.segment",
        "0x000000000000ab.segment", "00000000000000ag.segment", "00000000000000ab.segmen",
        "00000000000000ab.segment ", "quarantine-00000000000000ab.segment",
        "ffffffffffffffff.segment", "4000000000000001.segment", "00000000000000ab-segment",
        " 0000000000000ab.segment"}) {
    EXPECT_EQ(segment_number(name), std::nullopt) << name;
  }
}

TEST(Segment, KnowsTheChecksumOfTheStandard) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);  // RFC 3720
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(SegmentHeader, ComesBackAsItWas) {
  for (const size_t cutoffs : {0u, 1u, 300u, 32'768u}) {
    for (const uint32_t block : {512u, 4096u, 65'536u}) {
      const SegmentHeader given = header(cutoffs, block);
      std::string bytes = bytes_of(given);
      EXPECT_EQ(bytes.size() % block, 0u);
      const size_t size = bytes.size();
      bytes += "what follows";
      const HeaderRead read = read_header(bytes);
      ASSERT_EQ(read.state, HeaderState::kOk) << cutoffs << " " << block;
      EXPECT_EQ(read.header, given);
      EXPECT_EQ(read.size, size);
    }
  }
  SegmentHeader least = header(0);
  least.database.clear();
  EXPECT_EQ(read_header(bytes_of(least)).header, least);
}

TEST(SegmentHeader, ZerosAreASpare) {
  for (const size_t size : {size_t{512}, size_t{4096}, size_t{1} << 20})
    EXPECT_EQ(read_header(std::string(size, '\0')).state, HeaderState::kUnused) << size;
}

// Every value of every byte: damaged, or a size that it never had, or, in the padding, the same.
// Never a newer version: a start would end there.
TEST(SegmentHeader, NoChangedByteGivesAnotherHeader) {
  for (const size_t cutoffs : {0u, 1u, 300u}) {
    const SegmentHeader given = header(cutoffs, 4096);
    const std::string good = bytes_of(given);
    std::string bytes = good;
    for (size_t at = 0; at < good.size(); ++at) {
      const int step = at < 256 ? 1 : 85;  // the rest is all the same
      for (int by = 1; by < 256; by += step) {
        bytes[at] = static_cast<char>(good[at] ^ by);
        const HeaderRead read = read_header(bytes);
        if (at < header_length(good)) {
          EXPECT_TRUE(read.state == HeaderState::kDamaged || read.state == HeaderState::kMore)
              << at << " by " << by << ": " << int(read.state);
        } else {
          EXPECT_TRUE(read.state == HeaderState::kOk && read.header == given) << at;
        }
      }
      bytes[at] = good[at];
    }
  }
}

TEST(SegmentHeader, EachTruncationWantsMore) {
  const std::string good = bytes_of(header(300));
  for (size_t size = 0; size < good.size(); ++size) {
    const HeaderRead read = read_header(std::string_view(good).substr(0, size));
    EXPECT_EQ(read.state, HeaderState::kMore) << size;
    EXPECT_GT(read.size, size);
    EXPECT_LE(read.size, good.size());
  }
}

// A torn write: some sectors are still zeros.
TEST(SegmentHeader, EachMissingSectorIsSeen) {
  const std::string good = bytes_of(header(300));
  ASSERT_GT(good.size() / 512, 8u);
  for (size_t at = 0; at < good.size(); at += 512) {
    std::string bytes = good;
    bytes.replace(at, 512, std::string(512, '\0'));
    EXPECT_EQ(read_header(bytes).state, at == 0 ? HeaderState::kUnused : HeaderState::kDamaged);
  }
}

TEST(SegmentHeader, AVersionOfTheFutureIsToldWhateverFollows) {
  for (const uint32_t version : {2u, 256u, 0xffffffffu}) {
    std::string bytes = bytes_of(header(0));
    put_number(bytes, 8, version);
    put_number(bytes, 24, ~uint64_t{0});
    const std::string_view all(bytes);
    put_number(bytes, 20,
               crc32c(all.substr(24, header_length(bytes) - 24), crc32c(all.substr(8, 12))));
    EXPECT_EQ(read_header(bytes).state, HeaderState::kNewer) << version;
  }
}

// Sequences begin with 1.
TEST(SegmentHeader, AFirstSequenceThatCannotBeIsDamage) {
  SegmentHeader one = header(0);
  for (const uint64_t first :
       {uint64_t{0}, uint64_t{1}, kSequenceMax, kSequenceMax + 1, ~uint64_t{0}}) {
    one.first_sequence = first;
    const bool is_good = first > 0 && first <= kSequenceMax;
    EXPECT_EQ(read_header(bytes_of(one)).state == HeaderState::kOk, is_good) << first;
  }
}

// Payloads of every type byte, empty and at most.
std::vector<std::pair<uint8_t, std::string>> payloads() {
  return {{1, "intent"},
          {255, ""},
          {3, std::string(kRecordBytesMax, 'x')},
          {0, std::string(1, '\0')},
          {8, std::string(600, '\xff')}};
}

std::string build(GroupBuilder& builder, size_t block_bytes) {
  for (const auto& [type, payload] : payloads()) builder.add(type, payload);
  return std::string(builder.seal(41, 40, block_bytes));
}

void expect_group(const GroupRead& group, uint64_t first_sequence) {
  ASSERT_EQ(group.state, GroupState::kOk);
  EXPECT_EQ(group.first_sequence, first_sequence);
  const auto expected = payloads();
  ASSERT_EQ(group.records.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(group.records[i].type, expected[i].first);
    EXPECT_EQ(group.records[i].payload, expected[i].second);
    EXPECT_EQ(group.records[i].sequence, first_sequence + i);
  }
  EXPECT_EQ(group.last_sequence(), first_sequence + expected.size() - 1);
}

TEST(SegmentGroup, ComesBackAsItWas) {
  for (const size_t block : {512u, 4096u}) {
    GroupBuilder builder;
    std::string bytes = build(builder, block);
    EXPECT_EQ(bytes.size() % block, 0u);
    EXPECT_LT(bytes.size() - group_length(bytes), block);
    const size_t size = bytes.size();
    const GroupRead group = read_group(bytes += "what follows", block);
    expect_group(group, 41);
    EXPECT_EQ(group.durable_before, 40u);
    EXPECT_EQ(group.size, size);
  }
}

TEST(SegmentGroup, TheBuilderKnowsItsSize) {
  GroupBuilder builder;
  EXPECT_EQ(builder.count(), 0u);
  size_t expected = GroupBuilder::kHeadBytes;
  EXPECT_EQ(builder.size(), expected);
  for (const auto& [type, payload] : payloads()) {
    builder.add(type, payload);
    expected += GroupBuilder::framed_size(payload.size());
    EXPECT_EQ(builder.size(), expected);
  }
  EXPECT_EQ(builder.count(), payloads().size());
  EXPECT_EQ(group_length(builder.seal(1, 0, 512)), expected);
  builder.clear();
  EXPECT_EQ(builder.count(), 0u);
  EXPECT_EQ(builder.size(), GroupBuilder::kHeadBytes);
}

TEST(SegmentGroup, AnEmptyOneIsAWitness) {
  for (const size_t block : {512u, 4096u}) {
    GroupBuilder builder;
    const std::string_view bytes = builder.seal(8, 7, block);
    EXPECT_EQ(bytes.size(), block);
    const GroupRead group = read_group(bytes, block);
    EXPECT_EQ(group.state, GroupState::kOk);
    EXPECT_EQ(group.durable_before, 7u);
    EXPECT_EQ(group.last_sequence(), 7u);
    EXPECT_TRUE(group.records.empty());
  }
}

// After a failed write: the same records with other numbers, for another block size, and then more.
TEST(SegmentGroup, CanBeSealedAgain) {
  GroupBuilder builder;
  build(builder, 4096);
  expect_group(read_group(builder.seal(100, 99, 512), 512), 100);
  GroupBuilder other;
  EXPECT_EQ(builder.seal(41, 40, 4096), build(other, 4096)) << "as if sealed once";
  builder.clear();
  build(builder, 512);
  expect_group(read_group(builder.seal(7, 3, 512), 512), 7);
}

TEST(SegmentGroup, ZerosAreTheEnd) {
  EXPECT_EQ(read_group(std::string(512, '\0'), 512).state, GroupState::kEnd);
  EXPECT_EQ(read_group(std::string(512, '\0') + "GRP\x1a", 512).state, GroupState::kEnd);
  EXPECT_EQ(read_group(std::string(4096, '\0'), 4096).state, GroupState::kEnd);
  std::string almost(4096, '\0');
  almost.back() = 1;
  EXPECT_EQ(read_group(almost, 4096).state, GroupState::kDamaged);
}

TEST(SegmentGroup, EachTruncationWantsMore) {
  GroupBuilder builder;
  const std::string good = build(builder, 512);
  for (size_t size = 0; size < good.size(); ++size) {
    const GroupRead read = read_group(std::string_view(good).substr(0, size), 512);
    EXPECT_EQ(read.state, GroupState::kMore) << size;
    EXPECT_GT(read.size, size);
    EXPECT_LE(read.size, good.size());
  }
}

TEST(SegmentGroup, EachChangedByteIsSeen) {
  GroupBuilder builder;
  const std::string good = build(builder, 512);
  std::string bytes = good;
  for (size_t at = 0; at < good.size(); ++at) {
    for (int by = 1; by < 256; by += at < 64 ? 1 : 127) {
      bytes[at] = static_cast<char>(good[at] ^ by);
      const GroupRead read = read_group(bytes, 512);
      if (at < group_length(good)) {
        EXPECT_TRUE(read.state == GroupState::kDamaged || read.state == GroupState::kMore)
            << at << " by " << by << ": " << int(read.state);
      } else {
        expect_group(read, 41);  // padding
      }
    }
    bytes[at] = good[at];
  }
}

TEST(SegmentGroup, EachMissingSectorIsSeen) {
  GroupBuilder builder;
  const std::string good = build(builder, 512);
  for (size_t at = 0; at < good.size(); at += 512) {
    std::string bytes = good;
    bytes.replace(at, 512, std::string(512, '\0'));
    EXPECT_EQ(read_group(bytes, 512).state, at == 0 ? GroupState::kEnd : GroupState::kDamaged);
  }
}

// Its checksums are right, and still it is none: what a builder never writes.
TEST(SegmentGroup, NumbersThatCannotBeAreDamage) {
  const struct {
    uint64_t first_sequence, durable_before;
    bool is_good;
  } cases[] = {{1, 0, true},
               {9, 2, true},
               {0, 0, false},
               {5, 5, false},
               {5, 6, false},
               {kSequenceMax, 5, true},
               {kSequenceMax + 1, 5, false},
               {~uint64_t{0}, ~uint64_t{0} - 1, false}};
  for (const auto& one : cases) {
    GroupBuilder builder;
    builder.add(6, "12345678");
    const GroupRead read =
        read_group(builder.seal(one.first_sequence, one.durable_before, 512), 512);
    EXPECT_EQ(read.state == GroupState::kOk, one.is_good) << one.first_sequence;
  }
  GroupBuilder builder;
  builder.add(6, std::string(kRecordBytesMax + 1, 'x'));
  EXPECT_EQ(read_group(builder.seal(1, 0, 512), 512).state, GroupState::kDamaged);
}

// Nor what a group says of itself, where its records say something else: as if a record of another
// group had been put in its place.
TEST(SegmentGroup, RecordsThatContradictTheirGroupAreDamage) {
  constexpr size_t kRecordAt = GroupBuilder::kHeadBytes;
  const auto sealed_with = [](auto change) {
    GroupBuilder builder;
    builder.add(6, "12345678");
    std::string bytes(builder.seal(9, 8, 512));
    change(bytes);
    put_number(bytes, 8, crc32c(std::string_view(bytes).substr(12, group_length(bytes) - 12)));
    return read_group(bytes, 512).state;
  };
  const auto fix_record = [](std::string& bytes) {
    put_number(bytes, kRecordAt + 4, crc32c(std::string_view(bytes).substr(kRecordAt + 8, 20)));
  };
  EXPECT_EQ(sealed_with(fix_record), GroupState::kOk);
  EXPECT_EQ(sealed_with([](std::string& b) { put_number(b, kRecordAt + 4, 1u); }),
            GroupState::kDamaged);
  EXPECT_EQ(sealed_with([&](std::string& b) {
              put_number(b, kRecordAt + 12, uint64_t{10});  // sequence
              fix_record(b);
            }),
            GroupState::kDamaged);
  EXPECT_EQ(sealed_with([&](std::string& b) {
              put_number(b, kRecordAt + 8, 256u);  // type
              fix_record(b);
            }),
            GroupState::kDamaged);
  for (const uint32_t count : {0u, 2u, 0xffffffffu}) {
    EXPECT_EQ(sealed_with([&](std::string& b) { put_number(b, 12, count); }), GroupState::kDamaged)
        << count;
  }
}

}  // namespace
}  // namespace llmproxy
