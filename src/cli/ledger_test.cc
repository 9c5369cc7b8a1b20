// The subcommand `ledger`, run as functions, over files that a real ledger wrote and an SQLite
// database: stopped, and with an owner that answers.
#include "cli/ledger.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "admin/control.h"
#include "billing/ledger_test_rig.h"
#include "billing/test_waiter.h"
#include "cli/check.h"
#include "cli/print.h"
#include "db/open.h"

namespace llmproxy {
namespace {

using rig::id;
using Kind = Outcome::Kind;

std::string hex(uint16_t number) {
  return id(number).hex();
}

class LedgerCommandTest : public testing::Test {
 protected:
  LedgerCommandTest() : log_(STDERR_FILENO, LogLevel::kCritical) {
    std::string name = std::filesystem::temp_directory_path() / "ledger_command.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
    config_.data_dir = path_;
    config_.max_replay_age = max_replay_age_;
    config_.ledger_bytes_max = uint64_t{16} << 20;
    config_.db_uri = "sqlite://" + path_ + "/events.db";
  }
  ~LedgerCommandTest() override {
    stop();
    std::filesystem::remove_all(path_);
  }

  // A life of its owner, which ships to the database or to nobody.
  Ledger& start(bool ships = false) {
    stop();
    std::shared_ptr<Database> database;
    if (ships) database = std::move(*open_database(config_.db_uri));
    LedgerSettings settings;
    settings.max_bytes = uint64_t{16} << 20;
    settings.ship_interval = Milliseconds(1);
    settings.max_replay_age = max_replay_age_;
    settings.database = identity_;
    std::string problem;
    auto opened =
        Ledger::open(open_directory(path_ + "/ledger", problem), database, log_, settings);
    EXPECT_TRUE(opened) << opened.error().message;
    ledger_ = std::move(*opened);
    return *ledger_;
  }
  void serve() {
    std::string problem;
    control_ = ControlServer::open(
        control_path(path_ + "/ledger"),
        [this](std::string_view line) { return answer_line(*ledger_, line); }, problem);
    ASSERT_NE(control_, nullptr) << problem;
  }
  void stop() {
    control_.reset();
    if (ledger_) ledger_->close(std::chrono::seconds(10));
    ledger_.reset();
  }
  void settle(Kind kind, uint16_t number, const std::string& model = "model") {
    Settlement one{.intent = rig::intent(number),
                   .has_intent = false,
                   .was_unresolved = false,
                   .outcome = {.kind = kind, .figure = {number, 2 * number}, .reason = "no figure"},
                   .date_created = rig::intent(number).time + 1'000};
    one.intent.model = model;
    ASSERT_TRUE(ledger_->reserve(one.intent));
    TestWaiter told;
    ledger_->settle(std::move(one), told);
    ASSERT_TRUE(told.wait());
  }
  void open_stream(uint16_t number) {
    ASSERT_TRUE(ledger_->reserve(rig::intent(number)));
    TestWaiter told;
    ledger_->open(rig::intent(number), false, told);
    ASSERT_TRUE(told.wait());
  }
  Survey survey() {
    std::string problem;
    const auto directory = open_directory_to_read(path_ + "/ledger", problem);
    EXPECT_NE(directory, nullptr) << problem;
    auto found = survey_ledger(*directory);
    EXPECT_TRUE(found) << found.error().message;
    return found ? std::move(*found) : Survey{};
  }

  int run(int (*command)(const LedgerShell&), LedgerArguments arguments = {}) {
    out_.str("");
    err_.str("");
    return command(LedgerShell{config_, arguments, [this] { return open_database(config_.db_uri); },
                               out_, err_});
  }
  int resolve(uint16_t number, int64_t prompt, int64_t completion) {
    LedgerArguments arguments;
    arguments.id = hex(number);
    arguments.prompt_n = prompt;
    arguments.completion_n = completion;
    return run(ledger_resolve, arguments);
  }
  bool has(const std::ostringstream& text, std::string_view word) {
    return text.str().find(word) != std::string::npos;
  }

  std::string path_;
  std::string identity_ = "the database";
  Config config_;
  Milliseconds max_replay_age_{std::chrono::hours(24 * 365 * 100)};
  Log log_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<ControlServer> control_;
  std::ostringstream out_, err_;
};

TEST_F(LedgerCommandTest, StatusCountsWhatTheFilesHold) {
  start();
  settle(Kind::kBilled, 1);
  settle(Kind::kBilled, 2);
  settle(Kind::kUnresolved, 3);
  open_stream(4);
  EXPECT_EQ(run(ledger_status), 0) << err_.str();
  EXPECT_TRUE(has(out_, "waiting     2 events; the oldest of 2026-09-21T")) << out_.str();
  EXPECT_TRUE(has(out_, "open        1 streams")) << out_.str();
  EXPECT_TRUE(has(out_, "unresolved  1 requests")) << out_.str();
  EXPECT_TRUE(has(out_, "database    the database")) << out_.str();
  EXPECT_TRUE(has(out_, "no owner answers")) << out_.str();
  EXPECT_EQ(run(ledger_status, {.is_json = true}), 0);
  EXPECT_TRUE(has(out_, R"("waiting":2,)")) << out_.str();
  EXPECT_TRUE(has(out_, R"("this_life":null)")) << out_.str();
  serve();
  EXPECT_EQ(run(ledger_status), 0);
  EXPECT_TRUE(has(out_, "accepted 4 = billed 2 + free 0 + unresolved 1 + in flight 1: it adds up"))
      << out_.str();
  EXPECT_EQ(run(ledger_status, {.is_json = true}), 0);
  EXPECT_TRUE(has(out_, R"("this_life":{"accepted":4,"billed":2,)")) << out_.str();
}

TEST_F(LedgerCommandTest, WhereThereIsNoLedgerNothingIsMade) {
  const auto commands = {ledger_status, ledger_unresolved, ledger_dead, ledger_verify};
  for (const auto command : commands) EXPECT_EQ(run(command), kExitNotFound) << err_.str();
  EXPECT_EQ(run(ledger_export, {.since = "1d"}), kExitNotFound);
  EXPECT_EQ(resolve(1, 2, 3), kExitNotFound);
  EXPECT_FALSE(std::filesystem::exists(path_ + "/ledger"));
}

TEST_F(LedgerCommandTest, ListsUnresolvedRequests) {
  start();
  settle(Kind::kUnresolved, 3, "odd \"model\"\x1b[2J");
  EXPECT_EQ(run(ledger_unresolved), 0);
  EXPECT_TRUE(has(out_, hex(3) + "  2026-09-21T")) << out_.str();
  EXPECT_TRUE(has(out_, "odd \"model\"?[2J")) << out_.str();
  EXPECT_EQ(run(ledger_unresolved, {.is_json = true}), 0);
  EXPECT_TRUE(has(out_, R"([
  {"_id":")" + hex(3) + R"(","started":)"))
      << out_.str();
  EXPECT_TRUE(has(out_, R"("model":"odd \"model\"\u001b[2J","backend":"backend",)")) << out_.str();
}

TEST_F(LedgerCommandTest, ResolvesOnAStoppedLedger) {
  start();
  settle(Kind::kUnresolved, 1);
  open_stream(2);
  stop();
  EXPECT_EQ(resolve(1, 30, 4), 0) << err_.str();
  EXPECT_EQ(resolve(1, 30, 4), 0) << "the same again";
  EXPECT_EQ(resolve(1, 30, 5), kExitNotFound);
  EXPECT_TRUE(has(err_, "\"completion_n\":4")) << err_.str();
  EXPECT_EQ(resolve(9, 30, 5), kExitNotFound);
  EXPECT_EQ(survey().state.unresolved().size(), 1u)
      << "the stream that was open: as a start does it";
  const Survey found = survey();
  EXPECT_EQ(found.state.totals().by_hand, 1u);
  EXPECT_EQ(found.backlog, 1u);
  EXPECT_EQ(found.database, "the database");
}

// What recovery settles is known at once; so is what lies in the last group.
TEST_F(LedgerCommandTest, ResolvesWhatOnlyRecoveryMakesUnresolved) {
  for (uint16_t i = 1; i <= 5; ++i) {
    start();
    open_stream(i);
    stop();
    EXPECT_EQ(resolve(i, 30, 4), 0) << err_.str();
  }
}

TEST_F(LedgerCommandTest, ResolvesOnALiveLedger) {
  start();
  settle(Kind::kUnresolved, 1);
  settle(Kind::kUnresolved, 2);
  serve();
  EXPECT_EQ(resolve(1, 30, 4), 0) << err_.str();
  EXPECT_EQ(resolve(1, 3, 4), kExitNotFound);
  EXPECT_EQ(run(ledger_resolve, {.id = hex(2), .is_free = true}), 0) << err_.str();
  EXPECT_EQ(ledger_->counts().by_hand, 2u);
}

TEST_F(LedgerCommandTest, AnOwnerThatDoesNotAnswerIsNotPassedOver) {
  start();
  settle(Kind::kUnresolved, 1);
  EXPECT_EQ(resolve(1, 30, 4), kExitTryAgain);
  EXPECT_TRUE(has(err_, "does not answer")) << err_.str();
  EXPECT_EQ(survey().state.unresolved().size(), 1u);
}

TEST_F(LedgerCommandTest, SomeoneElsesOpenStreamsAreNotSettledInPassing) {
  start();
  settle(Kind::kUnresolved, 1);
  open_stream(2);
  stop();
  std::filesystem::rename(path_ + "/ledger", path_ + "/theirs");
  LedgerArguments arguments{.directory = path_ + "/theirs", .id = hex(1), .is_free = true};
  EXPECT_EQ(run(ledger_resolve, arguments), kExitNotFound);
  EXPECT_TRUE(has(err_, "1 open streams")) << err_.str();
}

TEST_F(LedgerCommandTest, WhatMakesNoSenseIsUsage) {
  start();
  const LedgerArguments wrong[] = {
      {.id = hex(1)},
      {.id = hex(1), .prompt_n = 1},
      {.id = hex(1), .prompt_n = 1, .completion_n = 1, .is_free = true},
      {.id = "12", .is_free = true},
  };
  for (const LedgerArguments& one : wrong) EXPECT_EQ(run(ledger_resolve, one), kExitUsage);
  EXPECT_EQ(run(ledger_dead, {.requeue = "12"}), kExitUsage);
  EXPECT_EQ(run(ledger_dead, {.rebill = "all"}), kExitUsage);
  EXPECT_EQ(run(ledger_export, {.since = "yesterday"}), kExitUsage);
  EXPECT_EQ(run(ledger_export, {.since = "1d", .until = "+1d"}), kExitUsage);
  EXPECT_EQ(run(ledger_export, {.since = "1d", .format = "xml"}), kExitUsage);
}

TEST_F(LedgerCommandTest, WithheldEventsAreListedAndSentAgain) {
  max_replay_age_ = Milliseconds(1);
  start(true);
  settle(Kind::kBilled, 1);
  settle(Kind::kBilled, 2);
  while (survey().state.dead().size() < 2) std::this_thread::yield();
  stop();
  EXPECT_EQ(run(ledger_dead), 0);
  EXPECT_TRUE(has(out_, hex(1))) << out_.str();
  EXPECT_TRUE(has(out_, "withheld")) << out_.str();
  EXPECT_EQ(run(ledger_dead, {.is_json = true}), 0);
  EXPECT_TRUE(has(out_, R"("completion_n":2,"kind":"withheld","reason":"older)")) << out_.str();
  EXPECT_EQ(run(ledger_dead, {.requeue = hex(1)}), 0) << err_.str();
  EXPECT_EQ(run(ledger_dead, {.rebill = hex(2)}), 0) << err_.str();
  EXPECT_TRUE(has(err_, rebilled_id(id(2)).hex())) << err_.str();
  EXPECT_EQ(run(ledger_dead, {.requeue = hex(1)}), kExitNotFound);
  start(true);
  stop();
  const auto stored = (*open_database(config_.db_uri))
                          ->find_events(std::vector<Event>{rig::bill(1).event, rig::bill(2).event});
  ASSERT_TRUE(stored);
  EXPECT_EQ(*stored, (std::vector{Stored::kEqual, Stored::kAbsent}));
  EXPECT_EQ(run(ledger_verify), 0) << out_.str();
}

// Shipping.

std::vector<Stored> find(const std::string& uri, std::vector<uint16_t> numbers) {
  std::vector<Event> events;
  for (const uint16_t number : numbers) events.push_back(rig::bill(number).event);
  const auto database = open_database(uri);
  EXPECT_TRUE(database) << database.error().message;
  return (*database)->find_events(events).value();
}

TEST_F(LedgerCommandTest, ShipsAnotherMachinesDirectoryAndRemovesIt) {
  start();
  for (uint16_t i = 1; i <= 3; ++i) settle(Kind::kBilled, i);
  stop();
  std::filesystem::rename(path_ + "/ledger", path_ + "/theirs");
  const LedgerArguments theirs{.directory = path_ + "/theirs"};
  EXPECT_EQ(run(ledger_ship, theirs), kExitConfig) << "its events are another database's";
  EXPECT_TRUE(has(err_, "ledger retarget")) << err_.str();
  EXPECT_EQ(run(ledger_retarget, theirs), 0) << err_.str();
  EXPECT_EQ(run(ledger_ship, theirs), 0) << err_.str();
  EXPECT_TRUE(has(err_, "3 events delivered to " + config_.db_uri)) << err_.str();
  EXPECT_EQ(find(config_.db_uri, {1, 2, 3}), std::vector<Stored>(3, Stored::kEqual));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/theirs"));
  EXPECT_EQ(run(ledger_ship, theirs), kExitNotFound);
}

TEST_F(LedgerCommandTest, OpenStreamsAreSettledOnlyWhereTheirOwnerIsDead) {
  identity_ = config_.db_uri;
  start();
  settle(Kind::kBilled, 1);
  open_stream(2);
  stop();
  std::filesystem::rename(path_ + "/ledger", path_ + "/theirs");
  LedgerArguments theirs{.directory = path_ + "/theirs"};
  EXPECT_EQ(run(ledger_ship, theirs), kExitNotFound);
  EXPECT_TRUE(has(err_, "1 open streams")) << err_.str();
  EXPECT_EQ(find(config_.db_uri, {1}), std::vector{Stored::kAbsent});
  theirs.is_owner_dead = true;
  EXPECT_EQ(run(ledger_ship, theirs), kExitNotFound) << "one is unresolved now";
  EXPECT_TRUE(has(err_, "1 unresolved requests")) << err_.str();
  EXPECT_EQ(find(config_.db_uri, {1}), std::vector{Stored::kEqual});
  theirs.id = hex(2);
  theirs.is_free = true;
  EXPECT_EQ(run(ledger_resolve, theirs), 0) << err_.str();
  EXPECT_EQ(run(ledger_ship, theirs), 0) << err_.str();
  EXPECT_FALSE(std::filesystem::exists(path_ + "/theirs"));
}

TEST_F(LedgerCommandTest, OldEventsAreShippedOnlyWhenThatIsSaid) {
  identity_ = config_.db_uri;
  config_.max_replay_age = std::chrono::hours(1);
  start();
  settle(Kind::kBilled, 1);
  stop();
  LedgerArguments own{.is_all = true};
  EXPECT_EQ(run(ledger_ship, own), kExitNotFound);
  EXPECT_TRUE(has(err_, "1 dead events")) << err_.str();
  EXPECT_EQ(find(config_.db_uri, {1}), std::vector{Stored::kAbsent});
  own.is_old = true;
  EXPECT_EQ(run(ledger_ship, own), 0) << err_.str();
  EXPECT_EQ(find(config_.db_uri, {1}), std::vector{Stored::kEqual});
  EXPECT_FALSE(std::filesystem::exists(path_ + "/ledger"));
}

TEST_F(LedgerCommandTest, AllIsTheOwnLedgerToItsEnd) {
  identity_ = config_.db_uri;
  start();
  settle(Kind::kBilled, 1);
  EXPECT_EQ(run(ledger_ship, {.is_all = true}), kExitTryAgain) << "it runs";
  EXPECT_TRUE(has(err_, "stop it first")) << err_.str();
  stop();
  EXPECT_EQ(run(ledger_ship), kExitUsage);
  EXPECT_EQ(run(ledger_ship, {.directory = path_, .is_all = true}), kExitUsage);
  EXPECT_EQ(run(ledger_ship, {.is_all = true}), 0) << err_.str();
  EXPECT_FALSE(std::filesystem::exists(path_ + "/ledger"));
  EXPECT_EQ(find(config_.db_uri, {1}), std::vector{Stored::kEqual});
}

TEST_F(LedgerCommandTest, WhatIsInQuarantineStays) {
  identity_ = config_.db_uri;
  start();
  settle(Kind::kBilled, 1);
  stop();
  std::ofstream(path_ + "/ledger/quarantine-1") << "bytes";
  EXPECT_EQ(run(ledger_ship, {.is_all = true}), kExitNotFound);
  EXPECT_TRUE(has(err_, "1 files in quarantine")) << err_.str();
  EXPECT_TRUE(std::filesystem::exists(path_ + "/ledger/quarantine-1"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/ledger/" + segment_name(1)));
}

TEST_F(LedgerCommandTest, RetargetIsDurableAndMovesNothing) {
  start();
  settle(Kind::kBilled, 1);
  EXPECT_EQ(run(ledger_retarget), kExitTryAgain) << "it runs";
  stop();
  EXPECT_EQ(run(ledger_retarget), 0) << err_.str();
  EXPECT_EQ(survey().database, config_.db_uri);
  EXPECT_EQ(survey().backlog, 1u);
  EXPECT_EQ(find(config_.db_uri, {1}), std::vector{Stored::kAbsent});
  EXPECT_EQ(run(ledger_retarget), 0) << err_.str();
  EXPECT_TRUE(has(err_, "already")) << err_.str();
  identity_ = config_.db_uri;
  start(true);
  stop();
  EXPECT_EQ(find(config_.db_uri, {1}), std::vector{Stored::kEqual});
}

// Verifying.

TEST_F(LedgerCommandTest, WhatIsRightIsVerified) {
  start(true);
  for (uint16_t i = 1; i <= 5; ++i) settle(Kind::kBilled, i);
  settle(Kind::kUnresolved, 6);
  stop();
  EXPECT_EQ(run(ledger_verify), 0) << out_.str();
  EXPECT_TRUE(has(out_, "5 events; 5 delivered ones compared with the database; 0 wrong"))
      << out_.str();
  EXPECT_EQ(run(ledger_verify, {.is_files_only = true}), 0);
  EXPECT_TRUE(has(out_, "was not asked")) << out_.str();
}

TEST_F(LedgerCommandTest, WhatTheDatabaseLostIsFound) {
  start(true);
  settle(Kind::kBilled, 1);
  stop();
  config_.db_uri = "sqlite://" + path_ + "/other.db";
  EXPECT_EQ(run(ledger_verify), kExitNotFound);
  EXPECT_TRUE(has(out_, "wrong: event " + hex(1) + " was delivered and is not in the database"))
      << out_.str();
  const auto other = std::move(*open_database(config_.db_uri));
  Event changed = rig::bill(1).event;
  changed.completion_n += 1;
  other->write_events({&changed, 1});
  EXPECT_EQ(run(ledger_verify), kExitNotFound);
  EXPECT_TRUE(has(out_, hex(1) + " is another one in the database")) << out_.str();
}

TEST_F(LedgerCommandTest, ADatabaseThatIsNotThereIsTold) {
  start(true);
  settle(Kind::kBilled, 1);
  stop();
  config_.db_uri = "sqlite://" + path_;  // a directory
  EXPECT_EQ(run(ledger_verify), kExitUnavailable);
  EXPECT_TRUE(has(out_, "not compared with the database: cannot open")) << out_.str();
}

TEST_F(LedgerCommandTest, ASpoiledByteIsFound) {
  start();
  for (uint16_t i = 1; i <= 3; ++i) settle(Kind::kBilled, i);
  stop();
  const std::string name = path_ + "/ledger/" + segment_name(1);
  std::fstream file(name, std::ios::in | std::ios::out | std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  const size_t at = content.str().find("model", 2 * 4096);
  ASSERT_NE(at, std::string::npos);
  file.seekp(static_cast<std::streamoff>(at));
  file << 'M';
  file.close();
  EXPECT_EQ(run(ledger_verify, {.is_files_only = true}), kExitNotFound);
  EXPECT_TRUE(has(out_, "wrong: records ")) << out_.str();
}

// No program of ours writes such files.
TEST_F(LedgerCommandTest, TwoOutcomesOfOneRequestAreFound) {
  rig::LogRig log;
  log.start();
  EventRecord other = rig::bill(1);
  other.event.completion_n += 1;
  const Record records[] = {
      rig::bill(1), other,        rig::bill(2),
      rig::bill(2), rig::bill(3), FreeRecord{id(3), "no reply"},
      rig::bill(4), rig::dead(4), rig::bill(4, 0, Origin::kByHand),
  };
  for (const Record& record : records) log.commit(record);
  std::filesystem::create_directory(path_ + "/ledger");
  for (const std::string& name : log.files())
    std::ofstream(path_ + "/ledger/" + name, std::ios::binary) << *log.disk.content(name);
  EXPECT_EQ(run(ledger_verify, {.is_files_only = true}), kExitNotFound);
  EXPECT_TRUE(has(out_, hex(1) + " has two events that differ")) << out_.str();
  EXPECT_TRUE(has(out_, hex(2) + " has 2 events")) << out_.str();
  EXPECT_TRUE(has(out_, hex(3) + " is billed and free")) << out_.str();
  EXPECT_TRUE(has(out_, "; 3 wrong")) << "and one was sent again: " << out_.str();
}

// Exporting.

TEST_F(LedgerCommandTest, ExportsEventsAsLinesOfJson) {
  start(true);
  settle(Kind::kBilled, 1);
  settle(Kind::kBilled, 2, "a \"b\"\n");
  stop();
  EXPECT_EQ(run(ledger_export, {.since = "2000-01-01"}), 0) << err_.str();
  EXPECT_EQ(out_.str(),
            R"({"_id":"000000000000000000000001","date_created":"2026-09-21T14:13:21.001Z",)"
            R"("user_id":"user","api_key_id":"key","model":"model","prompt_n":1,"completion_n":2,)"
            R"("state":"delivered","origin":"request"})"
            "\n"
            R"({"_id":"000000000000000000000002","date_created":"2026-09-21T14:13:21.002Z",)"
            R"("user_id":"user","api_key_id":"key","model":"a \"b\"\n","prompt_n":2,)"
            R"("completion_n":4,"state":"delivered","origin":"request"})"
            "\n");
}

TEST_F(LedgerCommandTest, ExportsEventsAsCsv) {
  start();
  settle(Kind::kBilled, 1, "a, \"b\"");
  settle(Kind::kUnresolved, 2);
  EXPECT_FALSE(ledger_->resolve(id(2), Figure{30, 4}));
  EXPECT_EQ(run(ledger_export, {.since = "2000-01-01", .format = "csv"}), 0) << err_.str();
  EXPECT_EQ(out_.str(),
            "_id,date_created,user_id,api_key_id,model,prompt_n,completion_n,state,origin\r\n"
            "000000000000000000000001,2026-09-21T14:13:21.001Z,user,key,\"a, \"\"b\"\"\",1,2,"
            "waiting,request\r\n"
            "000000000000000000000002,2026-09-21T14:13:20.002Z,user,key,model,30,4,waiting,"
            "by_hand\r\n");
}

TEST_F(LedgerCommandTest, ExportsFromATimeUpToAnother) {
  start();
  for (uint16_t i = 1; i <= 3; ++i) settle(Kind::kBilled, i);
  const auto lines = [&](const std::string& since, const std::string& until) {
    EXPECT_EQ(run(ledger_export, {.since = since, .until = until}), 0) << err_.str();
    const std::string text = out_.str();
    return std::count(text.begin(), text.end(), '\n');
  };
  EXPECT_EQ(lines("2026-09-21T14:13:21.002Z", ""), 2);
  EXPECT_EQ(lines("2026-09-21", "2026-09-21T14:13:21.003Z"), 2);
  EXPECT_EQ(lines("now", ""), 0);
}

TEST_F(LedgerCommandTest, WhatCannotBePrintedIsTold) {
  start();
  const std::pair<int (*)(const LedgerShell&), LedgerArguments> commands[] = {
      {ledger_status, {}},
      {ledger_unresolved, {}},
      {ledger_dead, {.is_json = true}},
      {ledger_verify, {.is_files_only = true}},
      {ledger_export, {.since = "1d"}},
  };
  settle(Kind::kBilled, 1);
  for (const auto& [command, arguments] : commands) {
    std::ostringstream full, err;
    full.setstate(std::ios::badbit);
    const LedgerShell shell{config_, arguments, [&] { return open_database(config_.db_uri); }, full,
                            err};
    EXPECT_EQ(command(shell), kExitOutput) << err.str();
  }
}

}  // namespace
}  // namespace llmproxy
