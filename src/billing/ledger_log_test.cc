// The log on a simulated disk, one step at a time: segments, failed writes, room, what may go when.
#include "billing/ledger_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "billing/ledger_test_rig.h"

namespace llmproxy {
namespace {

using namespace rig;
using std::chrono::milliseconds;
using Kind = LedgerLog::Chore::Kind;

std::vector<int64_t> numbers(int64_t first, int64_t last) {
  std::vector<int64_t> all(static_cast<size_t>(last - first + 1));
  std::iota(all.begin(), all.end(), first);
  return all;
}

class LedgerLogTest : public testing::Test {
 protected:
  LedgerLogTest() { rig_.start(); }
  // What told says of each bill: its number, negative if it was given up.
  std::vector<int64_t> told() {
    std::vector<int64_t> all;
    for (const LedgerLog::Told& one : rig_.told) {
      const int64_t number = std::get<EventRecord>(one.append.record).event.prompt_n;
      all.push_back(one.is_durable ? number : -number);
    }
    rig_.told.clear();
    return all;
  }
  // What the next start finds: bills that count already, then those that it is to write again.
  std::vector<int64_t> recovered_bills() {
    rig_.kill();
    rig_.start();
    std::vector<int64_t> all = rig_.bills();
    for (const Record& record : rig_.found.first) {
      if (const auto* one = std::get_if<EventRecord>(&record)) all.push_back(one->event.prompt_n);
    }
    return all;
  }
  uint64_t open_in(uint64_t segment) const { return rig_.log->state().segments().at(segment).open; }
  LedgerLog& log() { return *rig_.log; }

  LogRig rig_;
};

TEST_F(LedgerLogTest, SparesAreMadeAheadOfWork) {
  LogRig rig;
  rig.directory = rig.disk.open();
  Result<Recovered> found = recover_ledger(*rig.directory, {"db", false});
  LedgerLog log(*rig.directory, rig.settings, std::move(found->start));
  EXPECT_FALSE(log.is_ready());
  EXPECT_EQ(log.begin_write(rig.now), std::nullopt) << "nothing to write";
  log.append({bill(1)});
  EXPECT_EQ(log.begin_write(rig.now), std::nullopt) << "nowhere to write to";
  EXPECT_TRUE(log.has_pending());
  for (uint64_t number = 1; number <= 4; ++number) {
    auto chore = log.next_chore(rig.now);
    ASSERT_TRUE(chore);
    EXPECT_EQ(chore->kind, Kind::kMakeSpare);
    EXPECT_EQ(chore->number, number);
    EXPECT_EQ(log.next_chore(rig.now), std::nullopt) << "one at a time";
    ASSERT_EQ(log.run_chore(*chore), 0);
    log.end_chore(*chore, 0, rig.now);
    EXPECT_EQ(log.is_ready(), number >= 3) << "one to write to, and two spares";
    EXPECT_EQ(log.bytes_used(), number * LogRig::kSegmentBytes);
  }
  EXPECT_EQ(log.next_chore(rig.now), std::nullopt);
  EXPECT_EQ(log.state().segments().size(), 0u) << "a spare is no segment yet";
}

// Making one waits for the file system, and at 10,000 bills a second one lasts for a second or two.
TEST_F(LedgerLogTest, ASpareThatIsLateKeepsNobodyWaiting) {
  rig_.commit(bill(1));
  rig_.chores();
  uint16_t next = 2;
  for (const uint64_t segment : {1u, 2u, 3u}) {
    while (log().views().back().number == segment) {
      ASSERT_TRUE(log().is_ready()) << segment;
      ASSERT_EQ(rig_.commit(bill(next++, LogRig::kFiller)), 0);
    }
  }
  EXPECT_FALSE(log().is_ready());
  rig_.chores();
  EXPECT_TRUE(log().is_ready());
}

TEST_F(LedgerLogTest, ACommitIsOneGroupOfAllThatWaits) {
  for (uint16_t i = 1; i <= 3; ++i) rig_.append(bill(i));
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(rig_.commit(), LogRig::kNothing);
  EXPECT_EQ(told(), numbers(1, 3));
  EXPECT_EQ(log().durable_sequence(), 3u);
  const std::string bytes = rig_.bytes(1);
  const HeaderRead header = read_header(bytes);
  ASSERT_EQ(header.state, HeaderRead::State::kOk);
  EXPECT_EQ(header.header.number, 1u);
  EXPECT_EQ(header.header.first_sequence, 1u);
  EXPECT_EQ(header.header.database, "db");
  EXPECT_EQ(header.header.block_bytes, 512u);
  EXPECT_TRUE(header.header.cutoffs.empty());
  const GroupRead group = read_group(std::string_view(bytes).substr(header.size), 512);
  ASSERT_EQ(group.state, GroupRead::State::kOk);
  EXPECT_EQ(group.records.size(), 3u);
  EXPECT_EQ(group.durable_before, 0u);
  EXPECT_EQ(rig_.commit(bill(4)), 0);
  const GroupRead next =
      read_group(std::string_view(rig_.bytes(1)).substr(header.size + group.size), 512);
  EXPECT_EQ(next.first_sequence, 4u);
  EXPECT_EQ(next.durable_before, 3u);
}

TEST_F(LedgerLogTest, WhatIsMoreThanAGroupGoesInSeveral) {
  for (uint16_t i = 1; i <= 40; ++i) rig_.append(bill(i, LogRig::kFiller));
  int commits = 0;
  while (rig_.commit() == 0) {
    ++commits;
    rig_.chores();
  }
  EXPECT_EQ(commits, 10);
  EXPECT_EQ(told(), numbers(1, 40));
  EXPECT_EQ(rig_.bills(), numbers(1, 40));
  EXPECT_EQ(recovered_bills(), numbers(1, 40));
}

TEST_F(LedgerLogTest, AnEmptyGroupIsWrittenOnlyAsAWitness) {
  rig_.commit(bill(1));
  EXPECT_EQ(rig_.commit(false), LogRig::kNothing);
  EXPECT_EQ(rig_.commit(true), 0);
  EXPECT_EQ(log().durable_sequence(), 1u);
  rig_.kill();
  rig_.start();
  EXPECT_TRUE(rig_.found.first.empty());
}

// max_bytes was made smaller between two lives, and with it groups and segments. The header of the
// copy cuts the old one off, so a crash between two groups of the copy would lose the second.
TEST_F(LedgerLogTest, ATailThatIsLargerThanAGroupIsCopiedInOne) {
  constexpr uint16_t kBills = 60;  // 180 KB
  int lives = 0;
  for (uint64_t write = 1; write <= 4; ++write) {
    for (const bool is_power_cut : {false, true}) {
      LogRig rig(write);
      rig.settings.segment_bytes = uint64_t{1} << 20;
      rig.settings.max_bytes = 16 * rig.settings.segment_bytes;
      rig.start();
      for (uint16_t i = 1; i <= kBills; ++i) rig.append(bill(i, LogRig::kFiller));
      ASSERT_EQ(rig.commit(), 0);
      ASSERT_FALSE(rig.log->has_pending());
      rig.kill();
      rig.settings = LogRig().settings;
      rig.disk.crash_at({.first = write, .call = LogRig::Call::kWrite});
      try {
        rig.start();
        while (rig.commit() == 0) rig.chores();
      } catch (const SimulatedCrash&) {
        ++lives;
      }
      rig.log.reset();
      rig.directory.reset();
      is_power_cut ? rig.disk.crash() : rig.disk.kill();
      rig.start();
      while (rig.commit() == 0) rig.chores();
      EXPECT_EQ(rig.bills(), numbers(1, kBills)) << write << (is_power_cut ? " cut" : " killed");
      EXPECT_TRUE(rig.found.alarms.empty());
    }
  }
  EXPECT_GE(lives, 2);
}

// Nor does it matter how often the disk refuses the copy.
TEST_F(LedgerLogTest, ALargeTailStaysTogetherWhereWritesFail) {
  constexpr uint16_t kBills = 60;
  LogRig rig;
  rig.settings.segment_bytes = uint64_t{1} << 20;
  rig.start();
  for (uint16_t i = 1; i <= kBills; ++i) rig.append(bill(i, LogRig::kFiller));
  ASSERT_EQ(rig.commit(), 0);
  rig.kill();
  rig.settings.segment_bytes = LogRig::kSegmentBytes;
  rig.start();
  rig.fail_writes(5);
  for (int i = 0; i < 20 && rig.log->has_pending(); ++i) {
    rig.commit();
    EXPECT_TRUE(rig.log->durable_sequence() == 0 || rig.log->durable_sequence() >= kBills);
    rig.chores();
    rig.now += rig.settings.probe_interval;
  }
  EXPECT_EQ(rig.bills(), numbers(1, kBills));
}

// It holds more than it may now. What is owed must find a place all the same: without a mark
// nothing would ever go.
TEST_F(LedgerLogTest, ALedgerThatWasMadeSmallerThanItIsShrinks) {
  for (uint16_t next = 1; rig_.log->bytes_used() < 10 * LogRig::kSegmentBytes;)
    next = rig_.roll(next);
  rig_.kill();
  rig_.settings.max_bytes = 5 * LogRig::kSegmentBytes;
  rig_.start();
  ASSERT_FALSE(rig_.found.first.empty());
  EXPECT_FALSE(log().is_ready());
  while (rig_.commit() == 0) rig_.chores();
  EXPECT_FALSE(log().has_pending());
  EXPECT_FALSE(log().is_ready()) << "no new work";
  rig_.settle_all();
  rig_.chores();
  EXPECT_TRUE(log().is_ready());
  EXPECT_LE(log().bytes_used(), rig_.settings.max_bytes);
}

// Segments.

TEST_F(LedgerLogTest, AFullSegmentIsFollowedByASpare) {
  const uint16_t second = rig_.roll(1), third = rig_.roll(second);
  const uint64_t last_of_first = second - 2u, last_of_second = third - 2u;
  const HeaderRead header = rig_.header(3);
  ASSERT_EQ(header.state, HeaderRead::State::kOk);
  EXPECT_EQ(header.header.first_sequence, last_of_second + 1);
  const std::vector<Cutoff> expected = {{1, last_of_first}, {2, last_of_second}};
  EXPECT_EQ(header.header.cutoffs, expected);
  EXPECT_EQ(header.header.instance, rig_.header(1).header.instance);
  EXPECT_EQ(rig_.bills(), numbers(1, third - 1));
  const std::vector<SegmentView> views = log().views();
  ASSERT_EQ(views.size(), 3u);
  EXPECT_EQ(views[0].last_sequence, last_of_first);
  EXPECT_EQ(views[1].first_sequence, last_of_first + 1);
  EXPECT_EQ(views[2].last_sequence, log().durable_sequence());
}

TEST_F(LedgerLogTest, AClosedSegmentIsCutOnceSomethingLiesBehindIt) {
  rig_.commit(bill(1));
  rig_.commit(bill(2));
  rig_.kill();
  rig_.start();
  rig_.chores();
  EXPECT_EQ(rig_.bytes(1).size(), LogRig::kSegmentBytes) << "its last group is needed until then";
  rig_.commit();
  ASSERT_EQ(log().views().size(), 2u);
  rig_.chores();
  EXPECT_EQ(rig_.last_chore, Kind::kCut);
  EXPECT_EQ(rig_.bytes(1).size(), log().views()[0].end_bytes) << "the tail has been copied";
  EXPECT_EQ(rig_.bytes(1).size(), rig_.header(1).size + 512);
  EXPECT_EQ(rig_.bills(), numbers(1, 2));
  rig_.roll(3);
  rig_.chores();
  EXPECT_EQ(rig_.bytes(log().views()[1].number).size(), log().views()[1].end_bytes);
  const std::vector<int64_t> all = rig_.bills();
  EXPECT_EQ(recovered_bills(), all);
}

TEST_F(LedgerLogTest, ACutThatFailsIsTriedAgainLater) {
  rig_.commit(bill(1, LogRig::kFiller));
  uint16_t next = 2;
  while (log().state().segments().size() == 1) rig_.commit(bill(next++, LogRig::kFiller));
  while (log().has_chore(rig_.now) && rig_.last_chore != Kind::kCut) {
    rig_.disk.add_fault(
        {.point = {.call = LogRig::Call::kTruncate}, .left = LogRig::Left::kNothing});
    if (rig_.chore() != 0) break;
    rig_.disk.clear_faults();
  }
  rig_.disk.clear_faults();
  EXPECT_EQ(rig_.last_chore, Kind::kCut);
  EXPECT_EQ(rig_.bytes(1).size(), LogRig::kSegmentBytes);
  EXPECT_EQ(log().next_chore(rig_.now), std::nullopt);
  EXPECT_EQ(log().next_chore_at(), rig_.now + rig_.settings.probe_interval);
  rig_.now += rig_.settings.probe_interval;
  rig_.chores();
  EXPECT_LT(rig_.bytes(1).size(), LogRig::kSegmentBytes);
}

// Failed writes. Whatever is left of one: nothing, a part, or all of it.

class FailedWrite : public LedgerLogTest, public testing::WithParamInterface<LogRig::Left> {};

TEST_P(FailedWrite, GoesToANewSegmentAndCountsOnce) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    LogRig rig(seed);
    rig.start();
    rig.commit(bill(1));
    rig.append(bill(2));
    rig.append(bill(3), true);
    rig.fail_writes(1, EIO, GetParam());
    EXPECT_EQ(rig.commit(), EIO);
    EXPECT_EQ(rig.log->last_error(), EIO);
    EXPECT_EQ(rig.told.size(), 1u) << "nobody is told of the first failure";
    EXPECT_FALSE(rig.log->is_failing());
    EXPECT_EQ(rig.log->next_try(), std::nullopt);
    EXPECT_TRUE(rig.log->has_pending());
    rig.append(bill(4));
    EXPECT_EQ(rig.commit(), 0);
    EXPECT_EQ(rig.log->durable_sequence(), 3u) << "the same group";
    EXPECT_EQ(rig.commit(), 0);
    EXPECT_EQ(rig.header(2).header.cutoffs, (std::vector<Cutoff>{{1, 1}}));
    EXPECT_EQ(rig.header(2).header.first_sequence, 2u);
    EXPECT_EQ(rig.told.size(), 4u);
    EXPECT_EQ(rig.bills(), numbers(1, 4));
    rig.kill();
    rig.start();
    EXPECT_TRUE(rig.found.alarms.empty()) << rig.found.alarms[0];
    while (rig.commit() == 0) {
    }
    EXPECT_EQ(rig.bills(), numbers(1, 4)) << "seed " << seed;
  }
}

// The segment that the group went to fails, too, and a third one takes it.
TEST_P(FailedWrite, ASegmentInWhichNothingCountsIsListedAndRemoved) {
  rig_.commit(bill(1));
  rig_.append(bill(2));
  rig_.fail_writes(2, EIO, GetParam());
  EXPECT_EQ(rig_.commit(), EIO);
  EXPECT_EQ(rig_.commit(), EIO);
  EXPECT_TRUE(log().is_failing());
  rig_.now += rig_.settings.probe_interval;
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(rig_.header(3).header.cutoffs, (std::vector<Cutoff>{{1, 1}, {2, 0}}));
  EXPECT_EQ(rig_.files()[1], segment_name(2));
  rig_.chores();
  EXPECT_NE(rig_.files()[1], segment_name(2));
  EXPECT_EQ(recovered_bills(), numbers(1, 2));
  EXPECT_TRUE(rig_.found.alarms.empty());
}

INSTANTIATE_TEST_SUITE_P(Left, FailedWrite,
                         testing::Values(LogRig::Left::kNothing, LogRig::Left::kPart,
                                         LogRig::Left::kUntilCrash, LogRig::Left::kAny));

TEST_F(LedgerLogTest, FailingTwiceTellsThoseWhoCanStillBeTold) {
  rig_.commit(bill(1));
  const size_t room = log().room_for(100);
  ASSERT_TRUE(log().reserve(room) && log().reserve(room));
  log().append({.record = bill(2), .gives_up = true, .room = room});
  log().append({.record = bill(3), .room = room});
  rig_.fail_writes(3);
  rig_.commit();
  rig_.append(bill(4), true);
  rig_.append(bill(5));
  EXPECT_EQ(told(), numbers(1, 1));
  rig_.commit();
  EXPECT_TRUE(log().is_failing());
  EXPECT_EQ(told(), (std::vector<int64_t>{-2, -4})) << "of the group, and of what came since";
  EXPECT_EQ(log().bytes_reserved(), room);
  EXPECT_FALSE(log().reserve(1)) << "no new work";
  EXPECT_EQ(log().next_try(), rig_.now + rig_.settings.probe_interval);

  rig_.now += rig_.settings.probe_interval - milliseconds(1);
  EXPECT_EQ(rig_.commit(), LogRig::kNothing);
  rig_.append(bill(6));
  rig_.append(bill(7), true);
  rig_.now += milliseconds(1);
  rig_.chores();
  EXPECT_EQ(rig_.commit(), EIO) << "a probe";
  EXPECT_EQ(told(), std::vector<int64_t>{-7});
  rig_.now += rig_.settings.probe_interval;
  rig_.chores();
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(told(), (std::vector<int64_t>{3, 5, 6}));
  EXPECT_FALSE(log().is_failing());
  EXPECT_EQ(log().next_try(), std::nullopt);
  EXPECT_EQ(log().bytes_reserved(), 0u);
  EXPECT_TRUE(log().reserve(1));
  EXPECT_EQ(rig_.bills(), (std::vector<int64_t>{1, 3, 5, 6}));
  EXPECT_EQ(recovered_bills(), (std::vector<int64_t>{1, 3, 5, 6}));
}

// After a success the next failure is a first one again.
TEST_F(LedgerLogTest, EachGroupMayFailOnce) {
  for (uint16_t i = 1; i <= 5; ++i) {
    rig_.append(bill(i), true);
    rig_.fail_writes(1);
    EXPECT_EQ(rig_.commit(), EIO);
    EXPECT_EQ(rig_.commit(), 0);
    rig_.chores();
    EXPECT_FALSE(log().is_failing());
  }
  EXPECT_EQ(told(), numbers(1, 5));
  EXPECT_EQ(recovered_bills(), numbers(1, 5));
}

TEST_F(LedgerLogTest, TheProbeOfAnEmptyLogIsAnEmptyGroup) {
  rig_.commit(bill(1));
  rig_.append(bill(2), true);
  rig_.fail_writes(2);
  rig_.commit();
  rig_.commit();
  EXPECT_TRUE(log().is_failing());
  EXPECT_FALSE(log().has_pending());
  rig_.now += rig_.settings.probe_interval;
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_FALSE(log().is_failing());
  EXPECT_EQ(log().durable_sequence(), 1u);
  EXPECT_EQ(rig_.commit(bill(3)), 0);
  EXPECT_EQ(recovered_bills(), (std::vector<int64_t>{1, 3}));
}

// A disk that fails for long: each probe costs a segment, and it is given back.
TEST_F(LedgerLogTest, ProbesDoNotFillTheDisk) {
  rig_.commit(bill(1));
  rig_.append(bill(2));
  rig_.fail_writes(200);
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(rig_.commit(), EIO) << i;
    rig_.now += rig_.settings.probe_interval;
    rig_.chores();
    EXPECT_LE(rig_.files().size(), 6u);
  }
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(recovered_bills(), numbers(1, 2));
  EXPECT_TRUE(rig_.found.alarms.empty());
}

TEST_F(LedgerLogTest, WithoutASpareTheFirstFailureIsTheLast) {
  rig_.commit(bill(1));
  rig_.fail_writes(3);
  for (int i = 0; i < 2; ++i) {  // the second time a probe
    rig_.append(bill(2), true);
    rig_.commit();
    rig_.commit();
    rig_.now += rig_.settings.probe_interval;
  }
  EXPECT_TRUE(log().is_failing());
  EXPECT_EQ(told(), (std::vector<int64_t>{1, -2, -2}));
  rig_.append(bill(3));
  EXPECT_EQ(rig_.commit(), LogRig::kNothing) << "there is no segment";
  rig_.chores();
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(rig_.bills(), (std::vector<int64_t>{1, 3}));
  // Works again, but has nowhere to go to.
  rig_.disk.set_capacity(0);
  uint16_t next = 4;
  while (rig_.commit(bill(next, LogRig::kFiller)) == 0) ++next;
  told();
  EXPECT_EQ(log().is_failing(), false);
  EXPECT_EQ(rig_.commit(), LogRig::kNothing);
  EXPECT_TRUE(log().has_pending()) << "kept until there is a segment";
  rig_.disk.set_capacity(SimulatedDisk::kForever);
  rig_.chores();
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(told(), std::vector<int64_t>{next});
}

TEST_F(LedgerLogTest, AFailureWithoutASpareGivesUpAtOnce) {
  rig_.commit(bill(1));
  rig_.disk.set_capacity(0);
  rig_.roll(2);
  uint16_t next = rig_.roll(100);  // into the last of them
  told();
  rig_.append(bill(next), true);
  rig_.fail_writes(1);
  EXPECT_EQ(rig_.commit(), EIO);
  EXPECT_TRUE(log().is_failing());
  EXPECT_EQ(told(), std::vector<int64_t>{-int64_t{next}});
}

// Its files are all that there is room for: they must go although no spare can be made.
TEST_F(LedgerLogTest, AFullDiskDoesNotKeepSegmentsFromGoing) {
  rig_.roll(1);
  rig_.chores();
  rig_.disk.set_capacity(rig_.log->bytes_used());
  rig_.roll(1'000);
  rig_.roll(2'000);
  rig_.settle_all();
  for (int i = 0; i < 10; ++i) {
    rig_.chores();
    rig_.now += rig_.settings.probe_interval;
  }
  EXPECT_TRUE(log().is_ready());
  EXPECT_NE(rig_.files()[0], segment_name(1));
  EXPECT_EQ(rig_.commit(bill(9)), 0);
}

TEST_F(LedgerLogTest, AFullDiskDoesNotKeepFailedSegments) {
  rig_.commit(bill(1));
  rig_.chores();
  rig_.disk.set_capacity(rig_.log->bytes_used() + 4'096);
  rig_.fail_writes(10, ENOSPC);
  rig_.append(bill(2));
  for (int i = 0; i < 30; ++i) {
    rig_.commit();
    rig_.chores();
    rig_.now += rig_.settings.probe_interval;
  }
  EXPECT_TRUE(log().is_ready());
  EXPECT_EQ(rig_.bills(), numbers(1, 2));
}

// Room.

TEST_F(LedgerLogTest, RoomIsForAnIntentAndAnOutcomeAndACopy) {
  for (const size_t bytes : {0u, 100u, 512u, 4096u}) {
    const size_t framed = GroupBuilder::framed_size(bytes);
    EXPECT_GE(log().room_for(bytes), 2 * (GroupBuilder::kHeadBytes + framed) + framed) << bytes;
    EXPECT_LT(log().room_for(bytes), 2 * (512 + GroupBuilder::kHeadBytes + framed) + framed);
  }
}

TEST_F(LedgerLogTest, WhatIsReservedFits) {
  const size_t filler = 1'000, room = log().room_for(filler + 200);
  uint16_t reserved = 0;
  for (;;) {  // as the keeper makes room for it
    rig_.chores();
    if (!log().reserve(room)) break;
    ++reserved;
  }
  EXPECT_GT(reserved, 100);
  EXPECT_EQ(log().bytes_reserved(), reserved * room);
  EXPECT_LE(log().bytes_used(), rig_.settings.max_bytes);
  for (uint16_t i = 1; i <= reserved; ++i) {  // each alone in its groups
    ASSERT_EQ(rig_.commit(open(i, false, filler)), 0) << i;
  }
  for (uint16_t i = 1; i <= reserved; ++i) {
    log().append({.record = bill(i, filler), .room = room});
    ASSERT_EQ(rig_.commit(), 0) << i << " of " << reserved;
  }
  EXPECT_EQ(log().bytes_reserved(), 0u);
  EXPECT_EQ(rig_.bills(), numbers(1, reserved));
}

// Every header names them all.
TEST_F(LedgerLogTest, ManySegmentsAreFullWhateverTheyHold) {
  rig_.settings.segments_max = 8;
  for (uint16_t life = 1; life <= 12; ++life) {
    if (rig_.log) rig_.kill();
    rig_.start();
    rig_.commit();
    rig_.commit(bill(life));
    rig_.commit(bill(static_cast<uint16_t>(life + 100)));
    rig_.chores();
  }
  EXPECT_GE(rig_.log->views().size(), 8u);
  EXPECT_LT(rig_.log->bytes_used(), rig_.settings.max_bytes / 2);
  EXPECT_FALSE(rig_.log->is_ready()) << "no new work";
  rig_.settle_all();
  rig_.chores();
  EXPECT_TRUE(rig_.log->is_ready());
}

TEST_F(LedgerLogTest, FullRefusesAndRoomComesBackWhenSegmentsGo) {
  const size_t filler = 3'000, room = log().room_for(filler + 200);
  uint16_t next = 1;
  while (log().reserve(room)) {
    log().append({.record = bill(next++, filler), .room = room});
    ASSERT_EQ(rig_.commit(), 0);
    rig_.chores();
  }
  EXPECT_EQ(log().bytes_reserved(), 0u);
  EXPECT_LE(log().bytes_used(), rig_.settings.max_bytes);
  EXPECT_GT(log().bytes_used(), rig_.settings.max_bytes / 2);
  rig_.settle_all();
  rig_.chores();
  EXPECT_LE(rig_.files().size(), 5u);
  EXPECT_TRUE(log().is_ready());
  EXPECT_TRUE(log().reserve(room));
}

// Streams were under way when it became full, and end; then starts find it so. What is settled at
// last must have somewhere to say so.
TEST_F(LedgerLogTest, AFullLogIsNotFullForEverAfterARestart) {
  for (const size_t filler : {10u, 300u, 3'000u}) {
    LogRig rig;
    rig.start();
    const size_t room = rig.log->room_for(filler + 200);
    const auto streams = static_cast<uint16_t>(90'000 / room);
    for (uint16_t i = 1; i <= streams; ++i) ASSERT_TRUE(rig.log->reserve(room));
    for (uint16_t next = 1'000; rig.log->is_ready() && rig.log->reserve(room); ++next) {
      rig.log->append({.record = bill(next, filler), .room = room});
      ASSERT_EQ(rig.commit(), 0);
      rig.chores();
    }
    for (uint16_t i = 1; i <= streams; ++i) {
      ASSERT_EQ(rig.commit(open(i, false, filler)), 0);
      rig.log->append({.record = bill(i, filler), .room = room});
      ASSERT_EQ(rig.commit(), 0);
      rig.chores();
    }
    for (int life = 0; life < 20; ++life) {
      rig.kill();
      rig.start();
      EXPECT_LE(rig.log->bytes_used(), rig.settings.max_bytes);
      EXPECT_FALSE(rig.log->is_ready() && rig.log->reserve(room)) << "still full";
      EXPECT_EQ(rig.commit(true), 0);
      rig.chores();
    }
    rig.settle_all();
    rig.chores();
    EXPECT_TRUE(rig.log->is_ready()) << filler;
    EXPECT_TRUE(rig.log->reserve(room)) << filler;
    EXPECT_LE(rig.files().size(), 5u) << filler;
  }
}

// What goes when.

TEST_F(LedgerLogTest, ASegmentGoesOnlyAfterAMarkInALaterOne) {
  const uint16_t next = rig_.roll(1) - 1;
  log().set_mark(log().state().segments().at(1).last_sequence);
  rig_.chores();
  EXPECT_EQ(rig_.files()[0], segment_name(1)) << "the mark is not durable yet";
  EXPECT_TRUE(log().has_upkeep());
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_FALSE(log().has_upkeep());
  rig_.chores();
  EXPECT_EQ(rig_.files()[0], segment_name(2));
  EXPECT_EQ(log().state().segments().begin()->first, 2u);
  rig_.kill();
  rig_.start();
  EXPECT_TRUE(rig_.found.alarms.empty());
  EXPECT_EQ(rig_.found.backlog, 1u) << "the bill that the second began with";
  EXPECT_EQ(rig_.bills(), numbers(next, next));
}

// The mark was written when this was the last segment; it is written again in a later one.
TEST_F(LedgerLogTest, AMarkThatIsTooFarBackIsWrittenAgain) {
  rig_.commit(bill(1));
  rig_.settle_all();  // sequence 2 is the mark itself
  EXPECT_EQ(log().state().mark(), 1u);
  EXPECT_FALSE(log().has_upkeep());
  log().set_mark(2);
  EXPECT_TRUE(log().has_upkeep());
  rig_.kill();
  rig_.start();
  rig_.commit();
  rig_.commit(FreeRecord{id(9), ""});
  log().set_mark(log().durable_sequence());
  rig_.commit();
  rig_.chores();
  EXPECT_EQ(rig_.files()[0], segment_name(log().views().back().number));
}

TEST_F(LedgerLogTest, OpenIntentsMoveBeforeTheirSegmentGoes) {
  rig_.commit(open(1'001, true));
  rig_.commit(open(1'002));
  rig_.commit(progress(1'001, 55));
  rig_.roll(1);
  rig_.settle_all();
  EXPECT_EQ(rig_.files()[0], segment_name(1));
  EXPECT_EQ(open_in(1), 2u);
  rig_.chores();
  EXPECT_EQ(rig_.files()[0], segment_name(1)) << "it still holds what is open";
  EXPECT_TRUE(log().has_upkeep());
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(open_in(1), 0u);
  EXPECT_EQ(open_in(2), 2u);
  rig_.chores();
  EXPECT_EQ(rig_.files()[0], segment_name(2));
  rig_.told.clear();
  EXPECT_FALSE(log().has_upkeep());
  rig_.kill();
  Result<Recovered> found = rig_.recover();
  ASSERT_EQ(found->start.state.open().size() + found->first.size(), 5u) << "3 copied, 2 outcomes";
  EXPECT_EQ(found->billed, 1u);
  EXPECT_EQ(found->unresolved, 1u);
}

// What the group in hand says of an id is newer than its copy, and comes behind it.
TEST_F(LedgerLogTest, WhatEndsInTheSameGroupStaysEnded) {
  for (uint16_t i = 1'001; i <= 1'003; ++i) rig_.commit(open(i, true));
  rig_.commit(progress(1'002, 8));
  rig_.roll(1);
  rig_.settle_all();
  rig_.append(bill(1'001));
  rig_.append(progress(1'002, 9));
  rig_.told.clear();
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(rig_.told.size(), 2u) << "copies are nobody's";
  EXPECT_FALSE(log().state().open().contains(id(1'001)));
  EXPECT_EQ(open_in(1), 0u);
  EXPECT_EQ(log().state().open().at(id(1'002)).progress, progress(1'002, 9));
}

// More is appended than goes into a group, each time, and it tells of the very streams that are to
// move: they do all the same, and the mark is written.
TEST_F(LedgerLogTest, CopiesAndMarksGetOnHoweverMuchIsAppended) {
  constexpr uint16_t kStreams = 40;
  for (uint16_t i = 1; i <= kStreams; ++i) rig_.append(open(i, true, 1'000));
  while (rig_.commit() == 0) {
  }
  rig_.roll(1'000);
  rig_.settle_all();
  ASSERT_EQ(open_in(1), kStreams);
  rig_.commit(bill(2'000));
  const uint64_t settled = log().durable_sequence();
  log().set_mark(settled);
  int64_t figure = 0;
  int groups = 0;
  while (log().state().segments().contains(1) && groups < 200) {
    for (uint16_t i = 1; i <= kStreams; ++i) rig_.append(progress(i, ++figure));
    for (uint16_t i = 1; i <= 8; ++i) rig_.append(FreeRecord{id(3'000), std::string(250, 'r')});
    for (uint16_t i = 1; i <= 8; ++i) rig_.append(open(4'000, true, LogRig::kFiller));
    ASSERT_EQ(rig_.commit(), 0);
    ASSERT_TRUE(log().has_pending());
    rig_.chores();
    ++groups;
  }
  EXPECT_LE(groups, 40) << "a quarter of each group, at least";
  EXPECT_EQ(log().state().mark(), settled);
}

// Many, in several groups: an intent never moves without its progress.
TEST_F(LedgerLogTest, AnIntentMovesWithItsProgress) {
  constexpr uint16_t kStreams = 300;
  for (uint16_t i = 1; i <= kStreams; ++i) rig_.append(open(i, true));
  for (uint16_t i = 1; i <= kStreams; ++i) rig_.append(progress(i, i));
  while (rig_.commit() == 0) {
  }
  rig_.roll(1'000);
  rig_.settle_all();
  int groups = 0;
  while (rig_.commit() == 0) ++groups;
  EXPECT_GT(groups, 1);
  rig_.chores();
  EXPECT_NE(rig_.files()[0], segment_name(1));
  rig_.kill();
  const Result<Recovered> found = rig_.recover();
  EXPECT_EQ(found->billed, kStreams);
  EXPECT_EQ(found->unresolved, 0u);
}

TEST_F(LedgerLogTest, CopiesOfAFailedGroupAreMadeAnew) {
  rig_.commit(open(1'001, true));
  rig_.roll(1);
  rig_.settle_all();
  rig_.fail_writes(2);
  rig_.commit();
  rig_.commit();
  EXPECT_TRUE(log().is_failing());
  EXPECT_FALSE(log().has_pending()) << "they are nobody's";
  EXPECT_EQ(open_in(1), 1u);
  rig_.append(bill(1'001));
  rig_.now += rig_.settings.probe_interval;
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_TRUE(log().state().open().empty()) << "not opened again behind its end";
}

TEST_F(LedgerLogTest, TheSideFileKnowsWhatWasUnresolvedBeforeASegmentGoes) {
  rig_.commit(open(1'001));
  rig_.commit(unresolved(1'001));
  rig_.commit(bill(1'002));
  rig_.commit(dead(1'002));
  rig_.roll(1);
  rig_.settle_all();
  EXPECT_EQ(rig_.chore(), 0);
  while (rig_.last_chore != Kind::kSaveSide) ASSERT_EQ(rig_.chore(), 0);
  EXPECT_EQ(rig_.files()[0], segment_name(1));
  EXPECT_EQ(rig_.files("side").size(), 1u);
  rig_.chores();
  EXPECT_EQ(rig_.files()[0], segment_name(2));
  rig_.kill();
  const Result<Recovered> found = rig_.recover();
  EXPECT_TRUE(found->start.state.unresolved().contains(id(1'001)));
  EXPECT_TRUE(found->start.state.dead().contains(id(1'002)));
}

// It was resolved since, and the segment that says so goes: the side file must not bring it back.
TEST_F(LedgerLogTest, TheSideFileForgetsWhatWasResolvedBeforeThatSegmentGoes) {
  rig_.commit(open(1'001));
  rig_.commit(unresolved(1'001));
  uint16_t next = rig_.roll(1);
  rig_.settle_all();
  rig_.chores();
  ASSERT_EQ(rig_.files()[0], segment_name(2));
  rig_.commit(bill(1'001, 0, Origin::kLate));
  rig_.roll(next);
  rig_.settle_all();
  rig_.chores();
  ASSERT_EQ(rig_.files()[0], segment_name(3));
  rig_.kill();
  EXPECT_TRUE(rig_.recover()->start.state.unresolved().empty());
}

// What becomes unresolved while the side file is being written is not in it.
TEST_F(LedgerLogTest, TheSideFileKnowsOnlyWhatWasThereWhenItBegan) {
  rig_.commit(unresolved(1'001));
  rig_.roll(1);
  rig_.settle_all();
  std::optional<LedgerLog::Chore> chore;
  for (;;) {
    chore = log().next_chore(rig_.now);
    ASSERT_TRUE(chore);
    ASSERT_EQ(log().run_chore(*chore), 0);
    if (chore->kind == Kind::kSaveSide) break;
    log().end_chore(*chore, 0, rig_.now);
  }
  rig_.commit(unresolved(1'002));
  log().end_chore(*chore, 0, rig_.now);
  EXPECT_FALSE(log().state().segments().at(1).has_side_records);
  EXPECT_TRUE(log().state().segments().at(2).has_side_records);
}

TEST_F(LedgerLogTest, ASegmentStaysWhileTheSideFileCannotBeWritten) {
  rig_.commit(unresolved(1'001));
  rig_.roll(1);
  rig_.settle_all();
  rig_.disk.add_fault({.point = {.call = LogRig::Call::kCreate, .name_end = "side.new"},
                       .error = ENOSPC,
                       .times = 3});
  for (int i = 0; i < 3; ++i) {
    rig_.chores();
    EXPECT_EQ(rig_.files()[0], segment_name(1));
    EXPECT_EQ(log().last_error(), ENOSPC);
    rig_.now += rig_.settings.probe_interval;
  }
  rig_.chores();
  EXPECT_EQ(rig_.files()[0], segment_name(2));
}

// The mark passes an event that is dead: were it durable before the dead record, a crash between
// them would lose it.
TEST_F(LedgerLogTest, TheMarkNeverOvertakesADeadRecord) {
  for (uint16_t i = 1; i <= 30; ++i) rig_.commit(bill(i));
  const uint64_t settled = log().durable_sequence();
  for (uint16_t i = 1; i <= 30; ++i) {  // more than one group
    DeadRecord one = dead(i);
    one.event.model += std::string(LogRig::kFiller, '.');
    rig_.append(one);
  }
  log().set_mark(settled);
  int groups = 0;
  do {
    ASSERT_EQ(rig_.commit(), 0);
    ++groups;
    rig_.chores();
    if (log().has_pending()) {
      EXPECT_EQ(log().state().mark(), 0u);
    }
  } while (log().has_pending());
  EXPECT_GT(groups, 2);
  EXPECT_EQ(log().state().dead().size(), 30u);
  EXPECT_EQ(log().state().mark(), settled) << "in the last of them";
}

TEST_F(LedgerLogTest, NothingIsSettledBeforeItIsDurable) {
  rig_.commit(bill(1));
  log().set_mark(1);
  log().set_mark(0);
  EXPECT_EQ(rig_.commit(), 0);
  EXPECT_EQ(log().state().mark(), 1u) << "it only grows";
  EXPECT_DEATH(log().set_mark(3), "check failed");
}

// A removal whose sync fails may have happened: it is made durable before the next one.
TEST_F(LedgerLogTest, ARemovalIsDurableBeforeTheNext) {
  uint16_t next = rig_.roll(1);
  next = rig_.roll(next);
  rig_.settle_all();
  while (rig_.last_chore != Kind::kRemove) {
    rig_.disk.clear_faults();
    rig_.disk.add_fault({.point = {.call = LogRig::Call::kSync}, .left = LogRig::Left::kNothing});
    if (rig_.chore() == LogRig::kNothing) rig_.now += rig_.settings.probe_interval;
  }
  rig_.disk.clear_faults();
  EXPECT_EQ(rig_.files()[0], segment_name(2));
  EXPECT_EQ(log().state().segments().begin()->first, 1u) << "not gone before that is durable";
  EXPECT_EQ(log().next_chore(rig_.now), std::nullopt);
  rig_.now += rig_.settings.probe_interval;
  rig_.chores();
  EXPECT_EQ(log().state().segments().begin()->first, 3u);
}

}  // namespace
}  // namespace llmproxy
