// What a survey tells of files that LedgerLog wrote, over the simulated disk: the same as a start
// would find, and nothing of them changes.
#include "billing/ledger_survey.h"

#include <gtest/gtest.h>

#include "billing/ledger_test_rig.h"

namespace llmproxy {
namespace {

using namespace rig;

class LedgerSurveyTest : public testing::Test {
 protected:
  LedgerSurveyTest() { rig_.start(); }
  Survey survey() {
    const auto directory = rig_.disk.open_to_read();
    auto survey = survey_ledger(*directory);
    EXPECT_TRUE(survey) << survey.error().message;
    return survey ? std::move(*survey) : Survey{};
  }
  // Every file with what is in it.
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> all;
    for (const std::string& name : rig_.disk.names()) all[name] = *rig_.disk.content(name);
    return all;
  }
  static std::map<int64_t, Bill::State> bills(const Survey& survey) {
    std::map<int64_t, Bill::State> states;
    const auto error = read_bills(survey, [&](const Bill& one) {
      EXPECT_TRUE(states.emplace(one.event.prompt_n, one.state).second) << one.event.prompt_n;
    });
    EXPECT_FALSE(error);
    return states;
  }

  LogRig rig_;
};

using enum Bill::State;

TEST_F(LedgerSurveyTest, TellsWhatIsOpenUnresolvedDeadAndWaiting) {
  rig_.commit(open(1));
  rig_.commit(open(2));
  rig_.commit(bill(3));
  rig_.commit(unresolved(4));
  rig_.settle_all();
  rig_.commit(bill(5));
  rig_.commit(bill(6));
  rig_.commit(dead(6));
  rig_.commit(FreeRecord{id(2), "no reply"});
  const Survey found = survey();
  EXPECT_EQ(found.state.open().size(), 1u);
  EXPECT_EQ(found.state.unresolved().size(), 1u);
  EXPECT_EQ(found.state.dead().size(), 1u);
  EXPECT_EQ(found.state.totals().billed, 3u);
  EXPECT_EQ(found.state.totals().free, 1u);
  EXPECT_EQ(found.state.last_sequence(), rig_.log->durable_sequence());
  EXPECT_EQ(found.backlog, 2u);
  EXPECT_EQ(found.database, "db");
  EXPECT_GE(found.bytes, 3 * LogRig::kSegmentBytes);
  EXPECT_TRUE(found.notes.empty() && found.alarms.empty());
  EXPECT_EQ(bills(found),
            (std::map<int64_t, Bill::State>{{3, kDelivered}, {5, kWaiting}, {6, kDead}}));
  const auto oldest = find_oldest_waiting(found);
  ASSERT_TRUE(oldest && *oldest);
  EXPECT_EQ((*oldest)->id, id(5));
}

TEST_F(LedgerSurveyTest, ChangesNothingOfWhatACrashLeft) {
  uint16_t next = rig_.roll(1);
  rig_.append(bill(next, LogRig::kFiller));
  const auto write = rig_.log->begin_write(rig_.now);
  ASSERT_TRUE(write);
  const std::string torn(write->bytes.substr(0, 512));
  ASSERT_EQ(write->file->write(write->offset, torn), 0);
  rig_.kill();
  const auto before = files();
  const Survey found = survey();
  EXPECT_EQ(files(), before);
  EXPECT_EQ(bills(found).size(), next - 1u);
  ASSERT_EQ(found.notes.size(), 1u);
  EXPECT_NE(found.notes[0].find("are no whole group"), std::string::npos) << found.notes[0];
  rig_.start();
  EXPECT_EQ(found.state.last_sequence() - found.proven, rig_.found.first.size());
}

TEST_F(LedgerSurveyTest, OpenStreamsStayOpen) {
  rig_.commit(open(1, true));
  rig_.commit(progress(1, 5));
  rig_.commit(bill(2));
  const Survey found = survey();
  EXPECT_EQ(found.state.open().size(), 1u);
  EXPECT_EQ(found.state.totals().billed, 1u);
  EXPECT_EQ(found.backlog, 1u);
}

// An accountant who adds up the export must not count it twice.
TEST_F(LedgerSurveyTest, AnEventThatWasSentAgainIsToldOnce) {
  rig_.commit(bill(1));
  rig_.commit(dead(1));
  rig_.commit(bill(2));
  rig_.commit(dead(2));
  rig_.settle_all();
  rig_.commit(bill(1, 0, Origin::kByHand));
  EXPECT_EQ(bills(survey()), (std::map<int64_t, Bill::State>{{1, kWaiting}, {2, kDead}}));
  rig_.settle_all();
  EXPECT_EQ(bills(survey()), (std::map<int64_t, Bill::State>{{1, kDelivered}, {2, kDead}}));
}

TEST_F(LedgerSurveyTest, WhatWasBilledUnderAnotherIdIsReplaced) {
  rig_.commit(bill(1));
  rig_.commit(dead(1));
  rig_.settle_all();
  rig_.commit(bill(2, 0, Origin::kByHand));
  rig_.commit(ClosedRecord{id(1)});
  EXPECT_EQ(bills(survey()), (std::map<int64_t, Bill::State>{{1, kReplaced}, {2, kWaiting}}));
}

// Its segment has gone; only the file `side` knows it.
TEST_F(LedgerSurveyTest, TellsDeadEventsWhoseSegmentsHaveGone) {
  rig_.commit(bill(1));
  rig_.commit(dead(1));
  uint16_t next = rig_.roll(2);
  rig_.settle_all();
  rig_.chores();
  rig_.commit(bill(next));
  const Survey found = survey();
  ASSERT_GT(found.first_sequence(), 2u);
  const auto all = bills(found);
  EXPECT_EQ(all.at(1), kDead);
  EXPECT_EQ(all.at(next), kWaiting);
}

TEST_F(LedgerSurveyTest, RecordsCanBeReadWhenTheirSegmentsHaveGone) {
  const uint16_t next = rig_.roll(1);
  const Survey found = survey();
  rig_.settle_all();
  rig_.chores();
  ASSERT_GT(survey().first_sequence(), 1u);
  EXPECT_EQ(bills(found).size(), next - 1u);
}

TEST_F(LedgerSurveyTest, DamageIsAnAlarm) {
  rig_.commit(bill(1));
  rig_.commit(bill(2));
  rig_.commit(bill(3));
  const std::string name = rig_.files().front();
  const size_t at = rig_.disk.content(name)->find("model", 512 * 2);
  ASSERT_NE(at, std::string::npos);
  rig_.disk.spoil(name, at, "M");
  const Survey found = survey();
  EXPECT_FALSE(found.alarms.empty());
  EXPECT_EQ(bills(found).count(2), 0u);
  EXPECT_EQ(bills(found).count(3), 1u);
}

TEST_F(LedgerSurveyTest, FindsTheOutcomeOfAnId) {
  rig_.commit(bill(1));
  rig_.commit(FreeRecord{id(2), "no reply"});
  const Survey found = survey();
  const auto billed = find_outcome(found, id(1)), freed = find_outcome(found, id(2));
  ASSERT_TRUE(billed && *billed && freed && *freed);
  EXPECT_EQ(std::get<EventRecord>(**billed), bill(1));
  EXPECT_TRUE(std::holds_alternative<FreeRecord>(**freed));
  EXPECT_FALSE(*find_outcome(found, id(3)));
}

TEST_F(LedgerSurveyTest, AnEmptyDirectoryIsAnEmptyLedger) {
  LogRig rig;
  const auto directory = rig.disk.open_to_read();
  const auto found = survey_ledger(*directory);
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->views.empty());
  EXPECT_EQ(found->database, "");
}

}  // namespace
}  // namespace llmproxy
