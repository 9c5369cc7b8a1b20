// What records say all together: what opens and closes what, when a segment may go, the side file.
#include "billing/ledger_state.h"

#include <gtest/gtest.h>

#include "billing/bytes.h"
#include "billing/ledger_test_rig.h"

namespace llmproxy {
namespace {

using namespace rig;

class LedgerStateTest : public testing::Test {
 protected:
  LedgerStateTest() { state_.add_segment(1, 1); }
  // The invariant that it breaks.
  std::string apply(const Record& record) {
    return state_.apply(record, state_.last_sequence() + 1);
  }
  void apply_all(const std::vector<Record>& records) {
    for (const Record& record : records) ASSERT_EQ(apply(record), "");
  }
  size_t open_in(uint64_t segment) const { return state_.segments().at(segment).open; }
  bool has_side(uint64_t segment) const { return state_.segments().at(segment).has_side_records; }

  LedgerState state_;
};

TEST_F(LedgerStateTest, AnIntentIsOpenUntilItsOutcome) {
  const std::vector<Record> outcomes = {bill(1), FreeRecord{id(1), "why"}, unresolved(1),
                                        ClosedRecord{id(1)}};
  for (const Record& outcome : outcomes) {
    apply_all({open(1, true), open(2), progress(1, 3), progress(1, 4), progress(9, 1)});
    ASSERT_EQ(state_.open().size(), 2u);
    const LedgerState::Open& one = state_.open().at(id(1));
    EXPECT_EQ(one.record, open(1, true));
    EXPECT_EQ(one.progress, progress(1, 4));
    EXPECT_EQ(one.segment, 1u);
    EXPECT_EQ(one.sequence, state_.last_sequence() - 4);
    EXPECT_EQ(open_in(1), 2u);
    apply_all({outcome});
    EXPECT_FALSE(state_.open().contains(id(1)));
    EXPECT_TRUE(state_.open().contains(id(2)));
    EXPECT_EQ(open_in(1), 1u);
    apply_all({ClosedRecord{id(2)}, ClosedRecord{id(1)}});
    EXPECT_EQ(open_in(1), 0u);
  }
}

TEST_F(LedgerStateTest, ACopyMovesAnIntentAndKeepsItsProgress) {
  apply_all({open(1), progress(1, 3)});
  state_.add_segment(2, 3);
  apply_all({open(1)});
  EXPECT_EQ(open_in(1), 0u);
  EXPECT_EQ(open_in(2), 1u);
  EXPECT_EQ(state_.open().at(id(1)).segment, 2u);
  EXPECT_EQ(state_.open().at(id(1)).sequence, 3u);
  EXPECT_EQ(state_.open().at(id(1)).progress, progress(1, 3));
  state_.drop_segment(1);
  apply_all({bill(1)});
  EXPECT_EQ(open_in(2), 0u);
}

TEST_F(LedgerStateTest, UnresolvedAndDeadStayUntilTheyAreClosed) {
  const std::vector<Record> ends = {bill(1, 0, Origin::kLate),
                                    FreeRecord{id(1), "", Origin::kByHand}, ClosedRecord{id(1)}};
  for (const Record& end : ends) {
    apply_all({open(1), unresolved(1), bill(2), dead(2)});
    ASSERT_EQ(state_.unresolved().size(), 1u);
    EXPECT_EQ(state_.unresolved().at(id(1)).record, unresolved(1));
    EXPECT_EQ(state_.unresolved().at(id(1)).segment, 1u);
    ASSERT_EQ(state_.dead().size(), 1u);
    EXPECT_EQ(state_.dead().at(id(2)).record, dead(2));
    apply_all({end, ClosedRecord{id(2)}});
    EXPECT_TRUE(state_.unresolved().empty());
    EXPECT_TRUE(state_.dead().empty());
  }
}

// A backend's share goes down when its requests are resolved, however that comes.
TEST_F(LedgerStateTest, UnresolvedOnesAreCountedByBackend) {
  const std::vector<Record> ends = {bill(1, 0, Origin::kLate),
                                    FreeRecord{id(1), "", Origin::kByHand}, ClosedRecord{id(1)}};
  UnresolvedRecord other = unresolved(2);
  other.intent.backend = "other";
  EXPECT_EQ(state_.unresolved_of("backend"), 0u);
  apply_all({other, unresolved(3)});
  for (const Record& end : ends) {
    apply_all({unresolved(1)});
    EXPECT_EQ(state_.unresolved_of("backend"), 2u);
    LedgerState again;
    ASSERT_TRUE(again.read_side_file(state_.side_file()));
    again.add_segment(1, 1);
    again.apply(unresolved(1), 1);  // the log repeats it
    EXPECT_EQ(again.unresolved_of("backend"), 2u);
    apply_all({end});
    EXPECT_EQ(state_.unresolved_of("backend"), 1u);
    EXPECT_EQ(state_.unresolved_of("other"), 1u);
  }
  apply_all({bill(2), bill(3)});
  EXPECT_EQ(state_.unresolved_of("backend") + state_.unresolved_of("other"), 0u);
}

TEST_F(LedgerStateTest, CountsWhatWasApplied) {
  apply_all({open(1), bill(1), bill(2, 0, Origin::kRecovered), bill(3, 0, Origin::kLate),
             bill(4, 0, Origin::kByHand), FreeRecord{id(5), ""},
             FreeRecord{id(6), "", Origin::kByHand}, unresolved(7), dead(3)});
  const LedgerState::Totals& totals = state_.totals();
  EXPECT_EQ(totals.billed, 4u);
  EXPECT_EQ(totals.free, 2u);
  EXPECT_EQ(totals.unresolved, 1u);
  EXPECT_EQ(totals.recovered, 1u);
  EXPECT_EQ(totals.late, 1u);
  EXPECT_EQ(totals.by_hand, 2u);
  EXPECT_EQ(totals.dead, 1u);
}

TEST_F(LedgerStateTest, SaysWhichInvariantBreaks) {
  apply_all({open(1), unresolved(2)});
  EXPECT_EQ(state_.apply(bill(9), 4), "a gap between sequences");
  EXPECT_EQ(state_.last_sequence(), 4u);
  EXPECT_EQ(state_.apply(bill(9), 4), "a gap between sequences");
  EXPECT_EQ(apply(open(1, true)), "an intent was written again with other words");
  EXPECT_EQ(apply(unresolved(2)), "a request became unresolved twice");
  EXPECT_EQ(apply(MarkRecord{state_.last_sequence()}), "");
  EXPECT_EQ(apply(MarkRecord{state_.last_sequence() + 1}), "a mark beyond the last record");
  state_.skip_to(100);
  EXPECT_EQ(apply(bill(10)), "");
  EXPECT_EQ(state_.last_sequence(), 101u);
}

// Were it believed, events to come would be settled before they are there.
TEST_F(LedgerStateTest, AMarkBeyondTheLastRecordIsNotTaken) {
  apply_all({bill(1), MarkRecord{1}});
  apply(MarkRecord{1'000});
  EXPECT_EQ(state_.mark(), 1u);
}

TEST_F(LedgerStateTest, TheMarkOnlyGrows) {
  apply_all({bill(1), bill(2), MarkRecord{2}});
  EXPECT_EQ(state_.mark(), 2u);
  EXPECT_EQ(state_.mark_segment(), 1u);
  state_.add_segment(2, 4);
  apply_all({MarkRecord{1}});
  EXPECT_EQ(state_.mark(), 2u);
  EXPECT_EQ(state_.mark_segment(), 2u);
}

TEST(LedgerState, WhatCameBeforeTheOldestSegmentIsSettled) {
  LedgerState state;
  state.add_segment(7, 101);
  EXPECT_EQ(state.mark(), 100u);
  EXPECT_EQ(state.last_sequence(), 100u);
  EXPECT_EQ(state.mark_segment(), 0u);
  EXPECT_EQ(state.apply(bill(1), 101), "");
  state.add_segment(8, 102);
  EXPECT_EQ(state.mark(), 100u) << "not what came before a later one";
}

TEST_F(LedgerStateTest, ASegmentGoesAfterAMarkInALaterOne) {
  apply_all({open(1), bill(2), MarkRecord{2}});
  EXPECT_EQ(state_.find_settled(), nullptr) << "the only one";
  state_.add_segment(2, 4);
  apply_all({bill(3)});
  EXPECT_EQ(state_.find_settled(), nullptr) << "its mark is in itself, and not up to its end";
  apply_all({MarkRecord{2}});
  EXPECT_EQ(state_.find_settled(), nullptr) << "not up to its end";
  apply_all({MarkRecord{3}});
  ASSERT_NE(state_.find_settled(), nullptr);
  EXPECT_EQ(state_.find_settled()->number, 1u);
  EXPECT_EQ(state_.find_settled()->open, 1u) << "that is for others to look at";
}

TEST_F(LedgerStateTest, AMarkInTheSegmentItselfDoesNotFreeIt) {
  EXPECT_EQ(state_.find_settled(), nullptr) << "empty, but the last";
  state_.add_segment(2, 1);  // the first is empty
  apply_all({bill(1), bill(2)});
  ASSERT_EQ(state_.find_settled()->number, 1u) << "nothing is in it";
  state_.drop_segment(1);
  apply_all({MarkRecord{2}});
  state_.add_segment(3, 4);
  apply_all({FreeRecord{id(4), ""}});
  EXPECT_EQ(state_.find_settled(), nullptr);
  apply_all({MarkRecord{3}});
  EXPECT_EQ(state_.find_settled()->number, 2u);
}

TEST_F(LedgerStateTest, CopiesAreOfItsOpenIntentsWithTheirProgress) {
  apply_all({open(1, true), progress(1, 3), open(2), open(3), bill(3)});
  state_.add_segment(2, 6);
  apply_all({open(4)});
  const std::vector<Record> copies = state_.copies_of_open(1, 100);
  ASSERT_EQ(copies.size(), 3u);
  for (size_t i = 0; i < copies.size(); ++i) {
    if (copies[i] == Record(open(1, true))) {
      EXPECT_EQ(copies.at(i + 1), Record(progress(1, 3)));
    }
  }
  EXPECT_NE(std::find(copies.begin(), copies.end(), Record(open(2))), copies.end());
  EXPECT_EQ(state_.copies_of_open(2, 100), std::vector<Record>{open(4)});
  EXPECT_LE(state_.copies_of_open(1, 2).size(), 2u);
  EXPECT_GE(state_.copies_of_open(1, 2).size(), 1u);
}

// The side file.

TEST_F(LedgerStateTest, TheSideFileKeepsUnresolvedAndDead) {
  apply_all({open(1), unresolved(2), unresolved(3), dead(4)});
  LedgerState other;
  ASSERT_TRUE(other.read_side_file(state_.side_file()));
  EXPECT_EQ(other.unresolved().size(), 2u);
  EXPECT_EQ(other.unresolved().at(id(2)).record, unresolved(2));
  EXPECT_EQ(other.unresolved().at(id(2)).segment, 0u);
  EXPECT_EQ(other.dead().size(), 1u);
  EXPECT_EQ(other.dead().at(id(4)).record, dead(4));
  EXPECT_TRUE(other.open().empty());
  EXPECT_EQ(other.totals().unresolved, 0u) << "counted when they were made";
  // The log repeats some of it, and goes on.
  other.add_segment(1, 1);
  EXPECT_EQ(other.apply(unresolved(3), 1), "");
  EXPECT_EQ(other.apply(bill(2), 2), "");
  EXPECT_EQ(other.apply(ClosedRecord{id(4)}, 3), "");
  EXPECT_EQ(other.unresolved().size(), 1u);
  EXPECT_TRUE(other.dead().empty());
}

TEST_F(LedgerStateTest, ASideFileThatIsNotWholeIsRefused) {
  apply_all({unresolved(2), dead(4)});
  const std::string good = state_.side_file();
  const auto reads = [](std::string_view bytes) { return LedgerState().read_side_file(bytes); };
  EXPECT_TRUE(reads(good));
  EXPECT_TRUE(reads(good + std::string(512, '\0'))) << "padding";
  EXPECT_TRUE(reads(LedgerState().side_file()));
  for (size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(reads(std::string_view(good).substr(0, size))) << size;
  std::string bytes = good;
  constexpr size_t kSequenceAt = 8, kLengthAt = 16;  // nobody reads the sequence
  for (size_t at = 0; at < good.size(); ++at) {
    if (at >= kSequenceAt && at < kLengthAt) continue;
    for (int by = 1; by < 256; ++by) {
      bytes[at] = static_cast<char>(good[at] ^ by);
      EXPECT_FALSE(reads(bytes)) << at << " by " << by;
    }
    bytes[at] = good[at];
  }
}

TEST(LedgerState, ASideFileOfOtherRecordsIsRefused) {
  LedgerState state;
  state.add_segment(1, 1);
  state.apply(unresolved(1), 1);
  std::string bytes = state.side_file();
  std::string intent;
  append_record(intent, open(2));
  const auto with_type = [&](uint8_t type, const std::string& record) {
    std::string body;
    append_number(body, type);
    append_text(body, record);
    std::string file = bytes.substr(0, 16);
    append_number(file, static_cast<uint64_t>(body.size()));
    append_number(file, crc32c(body));
    return file + body;
  };
  EXPECT_FALSE(LedgerState().read_side_file(with_type(1, intent)));
  EXPECT_FALSE(LedgerState().read_side_file(with_type(5, intent)));
  EXPECT_FALSE(LedgerState().read_side_file(with_type(0, "")));
}

TEST_F(LedgerStateTest, ASegmentNeedsTheSideFileForWhatChangedInIt) {
  const std::vector<std::pair<Record, bool>> cases = {
      {open(10), false},
      {bill(10), false},
      {unresolved(1), true},
      {bill(1), true},
      {dead(2), true},
      {ClosedRecord{id(2)}, true},
      {FreeRecord{id(3), ""}, false},
  };
  uint64_t segment = 1;
  for (const auto& [record, changes] : cases) {
    state_.add_segment(++segment, state_.last_sequence() + 1);
    apply_all({record});
    EXPECT_EQ(has_side(segment), changes) << record.index();
  }
  const uint64_t until = state_.segments().at(5).last_sequence;
  state_.note_side_file(until);
  EXPECT_FALSE(has_side(4));
  EXPECT_FALSE(has_side(5));
  EXPECT_TRUE(has_side(6)) << "what lies behind what it knows";
}

TEST_F(LedgerStateTest, ASegmentThatIsOnlyHalfInTheSideFileStillNeedsIt) {
  apply_all({unresolved(1), unresolved(2)});
  state_.note_side_file(1);
  EXPECT_TRUE(has_side(1));
  state_.note_side_file(2);
  EXPECT_FALSE(has_side(1));
}

}  // namespace
}  // namespace llmproxy
