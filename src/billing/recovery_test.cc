// What a start finds, however the process before ended, and whatever happened to its files since.
#include "billing/recovery.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "billing/bytes.h"
#include "billing/ledger_test_rig.h"

namespace llmproxy {
namespace {

using namespace rig;
using Call = LogRig::Call;

class RecoveryTest : public testing::Test {
 protected:
  RecoveryTest() { rig_.start(); }

  Recovered recover(RecoveryOptions options = {"db", false}) {
    if (rig_.log) rig_.kill();
    Result<Recovered> found = rig_.recover(std::move(options));
    EXPECT_TRUE(found.ok()) << found.error().message;
    return found ? std::move(*found) : Recovered{};
  }
  int status(RecoveryOptions options = {"db", false}) {
    if (rig_.log) rig_.kill();
    const Result<Recovered> found = rig_.recover(std::move(options));
    return found ? 0 : found.error().status;
  }
  // Where the group of the n-th commit (from 0) to this segment lies.
  struct Place {
    uint64_t offset = 0, size = 0;
  };
  Place group(uint64_t number, size_t n) const {
    const std::string bytes = rig_.bytes(number);
    Place place{rig_.header(number).size, 0};
    for (;; --n, place.offset += place.size) {
      place.size = read_group(std::string_view(bytes).substr(place.offset), 512).size;
      if (n == 0) return place;
    }
  }
  void zero(uint64_t number, Place place) {
    rig_.disk.spoil(segment_name(number), place.offset, std::string(place.size, '\0'));
  }
  void flip(uint64_t number, uint64_t offset) {
    const char byte = rig_.bytes(number).at(offset);
    rig_.disk.spoil(segment_name(number), offset, std::string(1, static_cast<char>(byte ^ 1)));
  }
  bool has_file(const std::string& name) const { return rig_.disk.content(name).has_value(); }

  LogRig rig_;
};

// The bills that count and are not shipped, in order, those of `first` too.
std::vector<int64_t> waiting(const Recovered& found) {
  LedgerReader reader(found.mark);
  std::vector<int64_t> numbers;
  const auto take = [&](const Record& record) {
    if (const auto* one = std::get_if<EventRecord>(&record)) numbers.push_back(one->event.prompt_n);
  };
  const uint64_t until = found.start.state.last_sequence();
  for (bool is_more = true; is_more;) {
    std::vector<LedgerReader::Item> items;
    is_more = reader.read(found.start.views, until, 100, items);
    for (const LedgerReader::Item& item : items) take(item.record);
  }
  for (const Record& record : found.first) take(record);
  return numbers;
}

using Numbers = std::vector<int64_t>;

TEST_F(RecoveryTest, NothingIsThereAtTheFirstStart) {
  LogRig fresh;
  const Result<Recovered> found = fresh.recover();
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->first.empty() && found->notes.empty() && found->alarms.empty());
  EXPECT_EQ(found->backlog, 0u);
  EXPECT_EQ(found->start.next_segment, 1u);
  EXPECT_EQ(found->start.header.database, "db");
  EXPECT_EQ(found->start.header.block_bytes, 512u);
  EXPECT_NE(found->start.header.instance, Nonce{});
  EXPECT_NE(found->start.header.boot, Nonce{});
}

TEST_F(RecoveryTest, ACleanStopLeavesNothingToDo) {
  rig_.commit(bill(1));
  rig_.settle_all();
  rig_.commit(bill(2));
  rig_.commit(unresolved(3));
  rig_.commit(true);
  const Nonce instance = rig_.header(1).header.instance, boot = rig_.header(1).header.boot;
  for (int i = 0; i < 2; ++i) {
    const Recovered found = recover();
    EXPECT_TRUE(found.first.empty() && found.notes.empty() && found.alarms.empty());
    EXPECT_EQ(found.mark, 1u);
    EXPECT_EQ(found.backlog, 1u);
    EXPECT_EQ(waiting(found), Numbers{2});
    EXPECT_EQ(found.start.state.last_sequence(), 4u);
    EXPECT_EQ(found.start.state.unresolved().size(), 1u);
    EXPECT_EQ(found.start.header.instance, instance);
    EXPECT_NE(found.start.header.boot, boot);
  }
}

TEST_F(RecoveryTest, TheTailIsWrittenAgainBeforeAnythingElse) {
  rig_.commit(bill(1));
  rig_.append(bill(2));
  rig_.append(bill(3));
  rig_.commit();
  for (int i = 0; i < 2; ++i) {
    const Recovered found = recover();
    EXPECT_EQ(found.first, (std::vector<Record>{bill(2), bill(3)})) << "nothing proves them";
    EXPECT_EQ(found.start.state.last_sequence(), 1u);
    EXPECT_EQ(found.backlog, 3u);
    EXPECT_EQ(waiting(found), (Numbers{1, 2, 3}));
    EXPECT_TRUE(found.notes.empty() && found.alarms.empty());
  }
  rig_.start();
  rig_.commit();
  rig_.commit(true);
  const Recovered found = recover();
  EXPECT_TRUE(found.first.empty());
  EXPECT_EQ(waiting(found), (Numbers{1, 2, 3}));
  EXPECT_EQ(found.start.state.last_sequence(), 3u);
}

TEST_F(RecoveryTest, AMarkInTheTailCounts) {
  rig_.commit(bill(1));
  rig_.settle_all();
  const Recovered found = recover();
  EXPECT_EQ(found.mark, 1u);
  EXPECT_EQ(found.backlog, 0u);
  EXPECT_TRUE(waiting(found).empty());
}

// A write that a crash cut short: any sector of it is missing.
TEST_F(RecoveryTest, ATornGroupIsKeptInQuarantine) {
  rig_.commit(bill(1));
  rig_.commit(bill(2));
  rig_.commit(bill(3, 3'000));
  const Place place = group(1, 2);
  rig_.kill();
  for (uint64_t at = 512; at < place.size; at += 512) {
    LogRig other;
    std::string bytes = rig_.bytes(1);
    bytes.replace(place.offset + at, 512, std::string(512, '\0'));
    other.disk.put(segment_name(1), bytes);
    for (int i = 0; i < 2; ++i) {
      const Result<Recovered> found = other.recover();
      ASSERT_TRUE(found);
      EXPECT_EQ(waiting(*found), (Numbers{1, 2}));
      EXPECT_EQ(found->notes.size(), 1u);
      EXPECT_TRUE(found->alarms.empty()) << found->alarms[0];
      EXPECT_EQ(other.files().size(), 1u);
      EXPECT_EQ(other.disk.names()[1],
                "quarantine-0000000000000001-" + std::to_string(place.offset));
      EXPECT_LE(other.disk.names().size(), 2u);
    }
  }
}

// The newest segment.

// Its first write was torn: it does not count, and so neither does what it says of the one before.
TEST_F(RecoveryTest, ATornFirstWriteDoesNotCount) {
  rig_.commit(bill(1));
  rig_.roll(2);
  ASSERT_EQ(rig_.header(2).size, 512u);
  const Place place = group(2, 0);
  const auto expected = rig_.bills();
  const std::string first = rig_.bytes(1), second = rig_.bytes(2);
  rig_.kill();
  const uint64_t end = place.offset + place.size;
  for (uint64_t at = 0; at < end; at += 512) {  // each sector alone is missing, or all up to it
    for (const uint64_t from : {at, uint64_t{0}}) {
      LogRig other;
      std::string bytes = second;
      std::fill(bytes.begin() + static_cast<ptrdiff_t>(from),
                bytes.begin() + static_cast<ptrdiff_t>(at + 512), '\0');
      other.disk.put(segment_name(1), first);
      other.disk.put(segment_name(2), bytes);
      const Result<Recovered> found = other.recover();
      ASSERT_TRUE(found);
      EXPECT_EQ(waiting(*found), Numbers(expected.begin(), expected.end() - 1))
          << from << " " << at;
      EXPECT_EQ(found->first.size(), 1u) << "the last group before it is the tail again";
      EXPECT_TRUE(found->alarms.empty()) << found->alarms[0];
      EXPECT_EQ(found->start.next_segment, 3u);
      EXPECT_EQ(other.files("").size(), from == 0 && at + 512 == end ? 1u : 2u);
    }
  }
}

// And its file is there again: it could not be renamed.
TEST_F(RecoveryTest, ATornFirstWriteOfAllIsOfNoOtherLedger) {
  rig_.commit(bill(1));
  const Place place = group(1, 0);
  const Nonce instance = rig_.header(1).header.instance;
  const std::string torn = rig_.bytes(1).replace(place.offset, 512, std::string(512, '\0'));
  LogRig other;
  other.disk.put(segment_name(1), torn);
  other.start();
  other.commit(bill(2));
  other.commit(true);
  EXPECT_EQ(other.header(2).header.instance, instance);
  other.kill();
  other.disk.put(segment_name(1), torn);
  const Result<Recovered> found = other.recover();
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(waiting(*found), Numbers{2});
  EXPECT_EQ(other.disk.content(segment_name(1)), std::nullopt);
}

TEST_F(RecoveryTest, SparesAreRemoved) {
  rig_.commit(bill(1));
  rig_.commit(true);
  rig_.kill();
  rig_.disk.put(segment_name(0x20), "");
  rig_.disk.put(segment_name(0x21), std::string(512, '\0'));
  rig_.disk.put("side.new", "x");
  const Recovered found = recover();
  EXPECT_EQ(rig_.disk.names(), std::vector<std::string>{segment_name(1)});
  EXPECT_TRUE(found.notes.empty()) << found.notes[0];
  EXPECT_EQ(found.start.next_segment, 0x22u);
}

// In a segment in which nothing counts, a failed write may have left all it was to write.
TEST_F(RecoveryTest, AFailedSegmentDoesNotCount) {
  rig_.commit(bill(1));
  rig_.append(bill(2), true);
  rig_.append(bill(3));
  for (const uint64_t size : {0u, 1u}) {  // the second one fails whole
    rig_.disk.add_fault(
        {.point = {.first = 1 + size, .call = Call::kWrite}, .left = LogRig::Left::kNothing});
  }
  const auto write = rig_.log->begin_write(rig_.now);
  rig_.log->end_write(EIO, rig_.now, rig_.told);
  const auto again = rig_.log->begin_write(rig_.now);
  rig_.disk.clear_faults();
  ASSERT_EQ(again->file->write(again->offset, again->bytes), 0);
  rig_.log->end_write(EIO, rig_.now, rig_.told);  // it is there, but the disk said otherwise
  rig_.now += rig_.settings.probe_interval;
  ASSERT_EQ(rig_.commit(), 0);
  ASSERT_EQ(rig_.header(2).header.first_sequence, 2u);
  EXPECT_EQ(rig_.header(3).header.cutoffs, (std::vector<Cutoff>{{1, 1}, {2, 0}}));
  const Recovered found = recover();
  EXPECT_EQ(waiting(found), (Numbers{1, 3})) << "2 was told that nothing was recorded";
  EXPECT_TRUE(found.notes.empty() && found.alarms.empty());
  EXPECT_EQ(found.start.views.size(), 3u);
}

// What a failed write left at the end of an older segment was written again elsewhere.
TEST_F(RecoveryTest, WhatWasWrittenAgainElsewhereIsNoDamage) {
  for (const bool is_whole : {true, false}) {
    LogRig rig;
    rig.start();
    rig.commit(bill(1));
    rig.append(bill(2, 2'000));
    const auto write = rig.log->begin_write(rig.now);
    const size_t size = is_whole ? write->bytes.size() : 1'024;
    ASSERT_EQ(write->file->write(write->offset, write->bytes.substr(0, size)), 0);
    rig.log->end_write(EIO, rig.now, rig.told);
    ASSERT_EQ(rig.commit(), 0);
    ASSERT_EQ(rig.commit(true), 0);
    rig.kill();
    const Result<Recovered> found = rig.recover();
    ASSERT_TRUE(found);
    EXPECT_EQ(waiting(*found), (Numbers{1, 2}));
    EXPECT_TRUE(found->notes.empty()) << found->notes[0];
    EXPECT_TRUE(found->alarms.empty());
  }
}

// It was removed, which was not durable, and others did not know of it any more.
TEST_F(RecoveryTest, ASegmentThatCameBackIsRemovedAgain) {
  uint16_t next = rig_.roll(1);
  const std::string old = rig_.bytes(1);
  next = rig_.roll(next);
  rig_.settle_all();
  rig_.chores();
  rig_.roll(next);
  rig_.kill();
  ASSERT_FALSE(has_file(segment_name(1)));
  rig_.disk.put(segment_name(1), old);
  const Recovered found = recover();
  EXPECT_FALSE(has_file(segment_name(1)));
  EXPECT_TRUE(found.alarms.empty());
  EXPECT_EQ(found.start.state.segments().begin()->first, 3u);
  rig_.disk.put(segment_name(1), old);
  flip(1, 30);
  EXPECT_TRUE(recover().alarms.empty()) << "what it held was settled";
}

TEST_F(RecoveryTest, ASegmentUnderAnotherNameIsNone) {
  rig_.commit(bill(1));
  rig_.commit(true);
  rig_.kill();
  rig_.disk.put(segment_name(5), rig_.bytes(1));
  const Recovered found = recover();
  EXPECT_EQ(waiting(found), Numbers{1});
  EXPECT_TRUE(has_file("quarantine-" + segment_name(5)));
  EXPECT_EQ(found.start.next_segment, 6u);
}

// Damage. Seven groups in the first segment: an open stream with a final figure, bills, then more.

class DamageTest : public RecoveryTest {
 protected:
  DamageTest() {
    rig_.commit(open(101, true));
    rig_.commit(progress(101, 50, true));
    for (uint16_t i = 1; i <= 3; ++i) rig_.commit(bill(i));
    rig_.commit(open(102, true));
    rig_.commit(progress(102, 60, true));
  }
  static constexpr size_t kBill = 3;  // the group of bill(2)

  // The second bill is lost, which is told; so may have been the end of the first stream.
  void expect_lost(Numbers expected) {
    for (int i = 0; i < 2; ++i) {
      const Recovered found = recover();
      EXPECT_EQ(waiting(found), expected);
      EXPECT_EQ(found.alarms.size(), 1u);
      EXPECT_TRUE(std::any_of(found.first.begin(), found.first.end(), [](const Record& record) {
        const auto* one = std::get_if<UnresolvedRecord>(&record);
        return one != nullptr && one->intent == intent(101);
      }));
    }
  }
};

constexpr int64_t kPrompt = 7;  // of the event that a figure of progress() makes

TEST_F(DamageTest, NoneOfItIsNone) {
  rig_.commit(true);
  const Recovered found = recover();
  EXPECT_TRUE(found.alarms.empty());
  EXPECT_EQ(waiting(found), (Numbers{1, 2, 3, kPrompt, kPrompt}));
}

TEST_F(DamageTest, AFlippedBitInTheMiddle) {
  rig_.commit(true);
  flip(1, group(1, kBill).offset + 100);
  expect_lost({1, 3, kPrompt});
  EXPECT_FALSE(rig_.files("-" + std::to_string(group(1, kBill - 1).offset + 512)).empty())
      << "it is in quarantine";
}

TEST_F(DamageTest, AZeroedGroupInTheMiddle) {
  rig_.commit(true);
  zero(1, group(1, kBill));
  expect_lost({1, 3, kPrompt});
}

TEST_F(DamageTest, InTheMiddleOfAGroupOfManyBlocks) {
  rig_.commit(bill(4, 3'000));
  rig_.commit(bill(5));
  rig_.commit(true);
  zero(1, {group(1, 7).offset + 1'024, 512});
  expect_lost({1, 2, 3, 5});
}

TEST_F(DamageTest, TheFirstGroup) {
  rig_.commit(true);
  flip(1, group(1, 0).offset);
  const Recovered found = recover();
  EXPECT_EQ(waiting(found), (Numbers{1, 2, 3, kPrompt}));
  EXPECT_EQ(found.alarms.size(), 1u);
  EXPECT_TRUE(has_file(segment_name(1))) << "groups that follow it were durable";
}

TEST_F(DamageTest, TheLastGroupBeforeTheWitness) {
  rig_.commit(bill(4));
  rig_.commit(true);
  flip(1, group(1, 7).offset + 40);
  const Recovered found = recover();
  EXPECT_EQ(waiting(found), (Numbers{1, 2, 3}));
  EXPECT_EQ(found.alarms.size(), 1u) << "the witness says that it was durable";
  EXPECT_EQ(found.unresolved, 2u);
  EXPECT_EQ(found.start.state.last_sequence(), 8u) << "no sequence is used twice";
}

TEST_F(DamageTest, TheLastGroupBeforeTheTail) {
  rig_.commit(bill(4));
  rig_.commit(bill(5));
  flip(1, group(1, 7).offset + 40);
  const Recovered found = recover();
  EXPECT_EQ(waiting(found), (Numbers{1, 2, 3, 5}));
  EXPECT_EQ(found.alarms.size(), 1u);
  EXPECT_EQ(found.unresolved, 2u);
  EXPECT_EQ(found.start.state.last_sequence(), 8u);
  rig_.start();
  EXPECT_EQ(rig_.commit(), 0);
  rig_.commit(true);
  EXPECT_EQ(waiting(recover()), (Numbers{1, 2, 3, 5}));
}

// Were it written again under lower sequences, its mark would be beyond the last record: a start
// would end in the check of that invariant, each start.
TEST_F(DamageTest, BeforeATailWithAMark) {
  rig_.commit(bill(4));
  rig_.settle_all();
  flip(1, group(1, 7).offset + 40);
  for (int i = 0; i < 2; ++i) {
    rig_.kill();
    rig_.start();
    while (rig_.commit() == 0) {
    }
    rig_.commit(bill(static_cast<uint16_t>(5 + i)));
    rig_.commit(true);
  }
  EXPECT_EQ(waiting(recover()), (Numbers{5, 6})) << "and nothing new would be settled already";
}

TEST_F(DamageTest, AtTheEndOfAnOlderSegment) {
  rig_.roll(10);
  const size_t last = rig_.log->state().segments().at(1).last_sequence - 1;
  rig_.commit(true);
  flip(1, group(1, last).offset + 40);
  const Recovered found = recover();
  EXPECT_EQ(found.alarms.size(), 1u);
  EXPECT_EQ(found.unresolved, 2u);
}

TEST_F(DamageTest, AtTheEndOfAnOlderSegmentBehindWhichThereIsOnlyAWitness) {
  rig_.commit(bill(4));
  rig_.fail_writes(1, EIO, LogRig::Left::kNothing);
  ASSERT_EQ(rig_.commit(true), EIO);
  ASSERT_EQ(rig_.commit(true), 0);
  ASSERT_EQ(rig_.header(2).header.first_sequence, 9u);
  flip(1, group(1, 7).offset + 40);
  const Recovered found = recover();
  EXPECT_EQ(waiting(found), (Numbers{1, 2, 3}));
  EXPECT_EQ(found.alarms.size(), 1u);
  EXPECT_EQ(found.unresolved, 2u);
  EXPECT_EQ(found.start.state.last_sequence(), 8u);
}

TEST_F(DamageTest, TheHeaderOfAnOlderSegment) {
  rig_.roll(10);
  rig_.commit(true);
  flip(1, 30);
  const Recovered found = recover();
  EXPECT_EQ(found.alarms.size(), 1u) << "what only it held is lost";
  EXPECT_TRUE(has_file("quarantine-" + segment_name(1)));
}

// Zeros where a spare has them; it is none.
TEST_F(DamageTest, TheFirstBlockOfAnOlderSegment) {
  rig_.roll(10);
  rig_.commit(true);
  zero(1, {0, 512});
  const Recovered found = recover();
  EXPECT_EQ(found.alarms.size(), 1u);
  EXPECT_TRUE(has_file("quarantine-" + segment_name(1))) << "not removed";
}

TEST_F(DamageTest, TheHeaderOfTheNewestSegment) {
  rig_.commit(true);
  for (const bool is_zero : {false, true}) {
    LogRig other;
    std::string bytes = rig_.bytes(1);
    bytes.replace(30, is_zero ? 482 : 1, std::string(is_zero ? 482 : 1, '\x7f'));
    if (is_zero) bytes.replace(0, 512, std::string(512, '\0'));
    other.disk.put(segment_name(1), bytes);
    const Result<Recovered> found = other.recover();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->alarms.size(), 1u) << "groups in it were durable";
    EXPECT_TRUE(other.disk.content("quarantine-" + segment_name(1)));
  }
}

// A copy of the tail that the next start copied again: a power cut may still tear it, which loses
// nothing.
TEST_F(RecoveryTest, ACopyThatWasCopiedAgainIsNoLossWithoutItsHeader) {
  rig_.commit(bill(1));
  rig_.commit(bill(2));
  for (int life = 0; life < 2; ++life) {
    rig_.kill();
    rig_.start();
    rig_.commit();
  }
  const auto views = rig_.log->views();
  ASSERT_EQ(views.size(), 3u);
  EXPECT_EQ(rig_.header(views[2].number).header.cutoffs,
            (std::vector<Cutoff>{{1, 1}, {views[1].number, 0}}));
  flip(views[1].number, 30);
  const Recovered found = recover();
  EXPECT_TRUE(found.alarms.empty()) << found.alarms[0];
  EXPECT_EQ(waiting(found), (Numbers{1, 2}));
}

// A process that is started again and again while its database is away must not fill its disk.
TEST_F(RecoveryTest, ACopyOfTheTailGoesWhenTheNextOneIsDurable) {
  rig_.commit(bill(1));
  rig_.commit(bill(2));
  std::string copy;
  for (int life = 0; life < 20; ++life) {
    rig_.kill();
    rig_.start();
    rig_.chores();
    EXPECT_EQ(rig_.log->views().size(), life == 0 ? 1u : 2u) << "a copy that still counts";
    rig_.commit();
    if (life == 1) copy = rig_.bytes(rig_.log->views()[1].number);
    rig_.chores();
    ASSERT_EQ(rig_.log->views().size(), 2u);
    EXPECT_EQ(rig_.bills(), (Numbers{1, 2}));
  }
  const uint64_t gone = rig_.log->views()[1].number - 1;
  rig_.commit(true);
  rig_.kill();
  ASSERT_FALSE(has_file(segment_name(read_header(copy).header.number)));
  ASSERT_FALSE(has_file(segment_name(gone)));
  rig_.disk.put(segment_name(read_header(copy).header.number), copy);
  const Recovered found = recover();
  EXPECT_TRUE(found.alarms.empty()) << "it came back, which is no damage: " << found.alarms[0];
  EXPECT_EQ(waiting(found), (Numbers{1, 2}));
}

// Theirs would take ours for segments that were removed, or ours theirs.
TEST_F(RecoveryTest, SegmentsOfTwoLedgersAreNotTouched) {
  rig_.commit(bill(1));
  rig_.commit(true);
  LogRig other(2);
  other.start();
  other.roll(other.roll(10));
  for (const uint64_t number : {2u, 3u}) rig_.disk.put(segment_name(number), other.bytes(number));
  for (const bool is_survey : {false, true}) {
    rig_.kill();
    const auto files = rig_.files("");
    const Result<Recovered> found = rig_.recover({"db", true, is_survey});
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().status, 78);
    for (const uint64_t number : {1u, 2u}) {
      EXPECT_NE(found.error().message.find(segment_name(number)), std::string::npos)
          << found.error().message;
    }
    EXPECT_EQ(rig_.files(""), files);
  }
}

// What it held, nobody knows, nor up to which sequence: streams that were open before it may have
// ended in it.
TEST_F(DamageTest, TheHeaderOfTheNewestSegmentIsDamagedInWhichAStreamEnded) {
  rig_.roll(10);
  rig_.commit(bill(101));
  rig_.commit(true);
  flip(2, 30);
  for (int i = 0; i < 2; ++i) {
    const Recovered found = recover();
    EXPECT_EQ(found.alarms.size(), 1u);
    EXPECT_EQ(found.billed, 0u) << "not from progress; " << i;
    EXPECT_EQ(found.unresolved, 2u);
    EXPECT_GT(found.start.next_segment, 2u) << "no number is used twice";
  }
  rig_.start();
  while (rig_.commit() == 0) {
  }
  rig_.commit(true);
  EXPECT_TRUE(recover().alarms.empty()) << "once that is written";
}

TEST_F(DamageTest, AnOlderSegmentIsGone) {
  rig_.roll(10);
  rig_.commit(true);
  rig_.kill();
  ASSERT_EQ(rig_.disk.open()->remove(segment_name(1)), 0);
  EXPECT_EQ(recover().alarms.size(), 1u);
}

TEST_F(DamageTest, ASettledSegmentMayBeGone) {
  rig_.commit(bill(101));
  rig_.commit(bill(102));
  const uint16_t next = rig_.roll(10);
  rig_.settle_all();
  rig_.chores();
  ASSERT_FALSE(has_file(segment_name(1)));
  rig_.commit(true);
  EXPECT_TRUE(recover().alarms.empty());
  rig_.start();
  rig_.roll(next);
  EXPECT_TRUE(recover().alarms.empty());
}

// What no program of ours would write, with all checksums right.
TEST_F(DamageTest, ATailThatBreaksAnInvariantEndsNoStart) {
  const std::vector<Record> cases = {MarkRecord{1'000}, open(101, false), MarkRecord{~uint64_t{0}}};
  for (const Record& record : cases) {
    LogRig rig;
    rig.start();
    rig.commit(open(101, true));
    rig.commit(bill(1));
    GroupBuilder builder;
    std::string bytes;
    append_record(bytes, record);
    builder.add(record_type(record), bytes);
    rig.disk.spoil(segment_name(1), rig.log->views()[0].end_bytes, builder.seal(3, 2, 512));
    rig.kill();
    rig.start();
    EXPECT_EQ(rig.found.alarms.size(), 1u);
    while (rig.commit() == 0) {
    }
    EXPECT_EQ(rig.bills().front(), 1);
    EXPECT_LT(rig.log->state().mark(), 10u);
  }
}

// With all checksums right: sequences and numbers behind which there is no room.
TEST_F(RecoveryTest, NumbersThatWouldWrapEndTheStartWithALine) {
  constexpr uint64_t kFar = kSequenceMax / 2;
  const struct {
    uint64_t number, header_first, group_first, durable_before;
    bool is_refused, is_damage;
  } cases[] = {
      {1, 1, 1, 0, false, false},
      {1, kFar - 10, kFar - 10, kFar - 11, false, false},  // a tail
      {1, kFar, kFar, kFar - 1, true, false},
      {1, 1, kFar + 2, kFar + 1, true, false},
      {1, kSequenceMax, kSequenceMax, kSequenceMax - 1, true, false},
      {1, 1, kSequenceMax + 1, kSequenceMax, false, true},
      {1, 1, ~uint64_t{0}, ~uint64_t{0} - 1, false, true},
      {1, ~uint64_t{0}, 1, 0, false, true},
      {kSegmentNumberMax / 2 - 10, 1, 1, 0, false, false},
      {kSegmentNumberMax / 2 + 1, 1, 1, 0, true, false},
      {kSegmentNumberMax, 1, 1, 0, true, false},
  };
  for (const auto& one : cases) {
    SegmentHeader header;
    header.block_bytes = 512;
    header.number = one.number;
    header.first_sequence = one.header_first;
    header.database = "db";
    std::string bytes, record;
    append_header(bytes, header);
    append_record(record, bill(1));
    for (uint64_t i = 0; i < 2; ++i) {
      GroupBuilder builder;
      builder.add(3, record);
      bytes += builder.seal(one.group_first + i, one.durable_before + i, 512);
    }
    LogRig rig;
    rig.disk.put(segment_name(one.number), bytes);
    const Result<Recovered> found = rig.recover();
    EXPECT_EQ(!found.ok(), one.is_refused) << one.number << " " << one.group_first;
    if (!found) {
      EXPECT_EQ(found.error().status, 70);
      EXPECT_NE(found.error().message.find("beyond"), std::string::npos);
      continue;
    }
    EXPECT_EQ(!rig.files("").front().starts_with("quarantine"), !one.is_damage) << one.group_first;
    rig.start();
    ASSERT_EQ(rig.commit(bill(2)), 0);
    rig.commit(true);
    rig.kill();
    Recovered again = std::move(*rig.recover());
    const std::vector<int64_t> all = waiting(again);
    EXPECT_EQ(std::count(all.begin(), all.end(), 2), 1) << "what was written is read again";
  }
}

// A record that fits, of which the outcome would not: none of ours.
TEST_F(RecoveryTest, AnIntentThatIsTooLongEndsNoStart) {
  IntentRecord one = open(101);
  one.intent.model.assign(kRecordBytesMax - 100, 'm');
  rig_.commit(one);
  rig_.commit(true);
  rig_.kill();
  rig_.start();
  EXPECT_EQ(rig_.found.alarms.size(), 1u);
  while (rig_.commit() == 0) {
  }
  EXPECT_TRUE(rig_.log->state().open().empty());
}

TEST_F(RecoveryTest, WhatIsOpenAndUnresolvedEndsNoStart) {
  rig_.commit(unresolved(1));
  rig_.commit(open(1));
  rig_.commit(true);
  rig_.kill();
  rig_.start();
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(rig_.log->state().unresolved().size(), 1u);
  EXPECT_TRUE(rig_.log->state().open().empty());
}

// A record of a whole group that says nothing that this program knows.
TEST_F(DamageTest, ARecordThatCannotBeRead) {
  GroupBuilder builder;
  const auto add = [&](const Record& record) {
    std::string bytes;
    append_record(bytes, record);
    builder.add(record_type(record), bytes);
  };
  add(bill(4));
  builder.add(99, "from elsewhere");
  add(bill(5));
  const uint64_t at = group(1, 6).offset + group(1, 6).size;
  rig_.disk.spoil(segment_name(1), at, builder.seal(8, 7, 512));
  for (int i = 0; i < 2; ++i) {
    const Recovered found = recover();
    EXPECT_EQ(waiting(found), (Numbers{1, 2, 3, 4, 5, kPrompt, kPrompt}));
    EXPECT_EQ(found.alarms.size(), 1u);
  }
  rig_.start();
  rig_.commit();
  EXPECT_EQ(rig_.bills(), (Numbers{1, 2, 3, 4, 5, kPrompt, kPrompt}));
}

// The side file.

TEST_F(RecoveryTest, ADamagedSideFileIsTold) {
  rig_.commit(unresolved(1));
  rig_.roll(2);
  rig_.settle_all();
  rig_.chores();
  rig_.commit(true);
  ASSERT_TRUE(has_file("side"));
  EXPECT_EQ(recover().start.state.unresolved().size(), 1u);
  rig_.disk.spoil("side", 40, "\xff");
  Recovered found = recover();
  EXPECT_EQ(found.alarms.size(), 1u);
  EXPECT_TRUE(found.start.state.unresolved().empty());
  EXPECT_TRUE(has_file("quarantine-side"));
  EXPECT_FALSE(has_file("side"));
}

// Streams that were open.

TEST_F(RecoveryTest, AnOpenStreamIsBilledOrUnresolvedButNeverFree) {
  const struct {
    const char* what;
    bool may_bill_running;
    std::vector<ProgressRecord> progress;
    std::optional<int64_t> billed;
  } cases[] = {
      {"nothing is known", true, {}, std::nullopt},
      {"a running figure that may be billed", true, {progress(1, 5)}, 5},
      {"the last of them", true, {progress(1, 5), progress(1, 6)}, 6},
      {"a running figure that may not be billed", false, {progress(1, 5)}, std::nullopt},
      {"a final figure", false, {progress(1, 5, true)}, 5},
      {"a final figure after running ones", false, {progress(1, 5), progress(1, 9, true)}, 9},
      {"a zero", true, {progress(1, 0)}, 0},
  };
  for (const auto& one : cases) {
    for (const bool is_proven : {true, false}) {
      LogRig rig;
      rig.start();
      rig.append(open(1, one.may_bill_running));
      for (const ProgressRecord& record : one.progress) rig.append(record);
      rig.commit();
      if (is_proven) rig.commit(true);
      rig.kill();
      const Recovered found = std::move(*rig.recover());
      ASSERT_FALSE(found.first.empty());
      const Record& outcome = found.first.back();
      if (one.billed) {
        Event expected = bill(1).event;
        expected.date_created = intent(1).time;
        expected.prompt_n = 7;
        expected.completion_n = *one.billed;
        EXPECT_EQ(outcome, Record(EventRecord{expected, Origin::kRecovered})) << one.what;
      } else {
        ASSERT_TRUE(std::holds_alternative<UnresolvedRecord>(outcome)) << one.what;
        EXPECT_EQ(std::get<UnresolvedRecord>(outcome).intent, intent(1));
        EXPECT_EQ(std::get<UnresolvedRecord>(outcome).date_created, intent(1).time);
      }
      EXPECT_EQ(found.billed, one.billed ? 1u : 0u);
      EXPECT_EQ(found.unresolved, one.billed ? 0u : 1u);
      EXPECT_EQ(found.backlog, one.billed ? 1u : 0u);
      EXPECT_EQ(found.first.size(), is_proven ? 1u : 2u + one.progress.size());
    }
  }
}

TEST_F(RecoveryTest, AStreamThatEndedInTheTailIsNotOpen) {
  const std::vector<Record> ends = {bill(1), FreeRecord{id(1), "why"}, unresolved(1)};
  for (const Record& end : ends) {
    LogRig rig;
    rig.start();
    rig.commit(open(1, true));
    rig.commit(progress(1, 5));
    rig.commit(end);
    rig.kill();
    const Recovered found = std::move(*rig.recover());
    EXPECT_EQ(found.first, std::vector<Record>{end});
    EXPECT_EQ(found.billed + found.unresolved, 0u);
  }
}

TEST_F(RecoveryTest, WhatWasMadeOfOpenStreamsIsMadeOnce) {
  for (uint16_t i = 1; i <= 20; ++i) rig_.append(open(i, true));
  rig_.append(progress(7, 5));
  rig_.commit();
  Recovered found = recover();
  const std::vector<Record> first = found.first;
  EXPECT_EQ(found.billed, 1u);
  EXPECT_EQ(found.unresolved, 19u);
  EXPECT_EQ(recover().first, first) << "always in the same order";
  rig_.start();
  rig_.commit();
  rig_.commit(true);
  found = recover();
  EXPECT_TRUE(found.first.empty());
  EXPECT_EQ(found.start.state.unresolved().size(), 19u);
  EXPECT_EQ(waiting(found), Numbers{kPrompt});
}

// What ends the start.

TEST_F(RecoveryTest, EventsOfAnotherDatabaseAreNotSentToThis) {
  const struct {
    const char* what;
    std::vector<Record> records;
    bool is_settled;  // by a mark behind them
    bool is_refused;
  } cases[] = {
      {"nothing", {}, false, false},
      {"an event", {bill(1)}, false, true},
      {"an event that is there", {bill(1)}, true, false},
      {"an unresolved request", {unresolved(1)}, true, true},
      {"a dead event", {bill(1), dead(1)}, true, true},
      {"an open stream", {open(1)}, true, true},
      {"an open stream to be billed", {open(1), progress(1, 5, true)}, true, true},
      {"what was free", {FreeRecord{id(1), "why"}}, false, false},
  };
  for (const auto& one : cases) {
    for (const bool is_clean : {true, false}) {
      LogRig rig;
      rig.start();
      rig.commit(ClosedRecord{});
      for (const Record& record : one.records) rig.commit(record);
      if (one.is_settled) rig.settle_all();
      if (is_clean) rig.commit(true);
      rig.kill();
      const Result<Recovered> found = rig.recover({"other", false});
      EXPECT_EQ(!found.ok(), one.is_refused) << one.what << (is_clean ? ", clean" : "");
      if (!found) {
        EXPECT_EQ(found.error().status, 78);
        EXPECT_NE(found.error().message.find("the database db, and db.uri names other"),
                  std::string::npos)
            << found.error().message;
      }
      EXPECT_TRUE(rig.recover({"db", false})) << one.what;
      const Result<Recovered> retargeted = rig.recover({"other", true});
      ASSERT_TRUE(retargeted) << one.what;
      EXPECT_EQ(retargeted->start.header.database, "other");
    }
  }
}

TEST_F(RecoveryTest, ANewerVersionIsLeftAlone) {
  rig_.commit(bill(1));
  rig_.commit(true);
  rig_.kill();
  std::string bytes = rig_.bytes(1);
  put_number(bytes, 8, kSegmentVersion + 1);
  const auto length = ByteReader(std::string_view(bytes).substr(16)).number<uint32_t>();
  put_number(bytes, 20,
             crc32c(std::string_view(bytes).substr(24, length - 24),
                    crc32c(std::string_view(bytes).substr(8, 12))));
  rig_.disk.put(segment_name(9), bytes);
  const Result<Recovered> found = rig_.recover();
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().status, 78);
  EXPECT_NE(found.error().message.find("ledger ship --all"), std::string::npos);
  EXPECT_EQ(rig_.bytes(9), bytes);
}

TEST_F(RecoveryTest, WhatCannotBeReadEndsTheStart) {
  rig_.commit(bill(1));
  rig_.roll(2);
  rig_.settle_all();
  rig_.commit(unresolved(1));
  rig_.commit(true);
  rig_.kill();
  rig_.disk.put("side", LedgerState().side_file());
  for (const Call call : {Call::kList, Call::kOpen, Call::kRead, Call::kSize}) {
    for (uint64_t nth = 1;; ++nth) {
      rig_.disk.clear_faults();
      const uint64_t before = rig_.disk.faults_hit();
      rig_.disk.add_fault({.point = {.first = nth, .call = call}});
      const Result<Recovered> found = rig_.recover();
      if (rig_.disk.faults_hit() == before) break;
      ASSERT_FALSE(found) << int(call) << " " << nth;
      EXPECT_EQ(found.error().status, 70);
      EXPECT_TRUE(has_file(segment_name(1)) && has_file(segment_name(2)) && has_file("side"));
    }
  }
}

// Another disk, with other blocks: a directory that was copied.
TEST_F(RecoveryTest, BlocksOfAnotherSizeCanBeRead) {
  for (const auto& [from, to] : {std::pair{512u, 4096u}, {4096u, 512u}, {512u, 65'536u}}) {
    LogRig rig(1, from);
    rig.start();
    rig.commit(open(101));
    for (uint16_t i = 1; i <= 100; ++i) rig.commit(bill(i, 700));
    std::vector<int64_t> expected = rig.bills();
    rig.kill();
    LogRig other(1, to);
    for (const std::string& name : rig.disk.names()) other.disk.put(name, *rig.disk.content(name));
    other.disk.spoil(rig.files().back(), 0, "");
    const Result<Recovered> found = other.recover();
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_TRUE(found->alarms.empty());
    EXPECT_EQ(waiting(*found), expected) << from << " to " << to;
  }
}

}  // namespace
}  // namespace llmproxy
