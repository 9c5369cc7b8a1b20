// The control socket over a real ledger: commands by its lines, wrong lines, clients that hang.
#include "admin/control.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "admin/ledger_command.h"
#include "billing/ledger_test_rig.h"
#include "billing/test_waiter.h"

namespace llmproxy {
namespace {

using rig::id;
using Kind = LedgerCommand::Kind;
constexpr Milliseconds kLong{60'000};

class ControlTest : public testing::Test {
 protected:
  ControlTest() : log_(STDERR_FILENO, LogLevel::kCritical) {
    std::string name = std::filesystem::temp_directory_path() / "control_test.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
    std::string problem;
    Ledger::Settings settings;
    settings.max_bytes = uint64_t{16} << 20;
    auto opened = Ledger::open(open_directory(path_ + "/ledger", problem), nullptr, log_, settings);
    EXPECT_TRUE(opened) << opened.error().message;
    ledger_ = std::move(*opened);
    socket_ = control_path(path_ + "/ledger");
    server_ = ControlServer::open(
        socket_, [this](std::string_view line) { return answer_line(*ledger_, line); }, problem);
    EXPECT_NE(server_, nullptr) << problem;
  }
  ~ControlTest() override {
    server_.reset();
    ledger_.reset();
    std::filesystem::remove_all(path_);
  }
  void unresolved(uint16_t number) {
    Settlement one{.intent = rig::intent(number),
                   .has_intent = false,
                   .was_unresolved = false,
                   .outcome = {.kind = Outcome::Kind::kUnresolved, .reason = "no figure"},
                   .date_created = 1};
    ASSERT_TRUE(ledger_->reserve(one.intent));
    TestWaiter told;
    ledger_->settle(std::move(one), told);
    ASSERT_TRUE(told.wait());
  }
  std::string say(const std::string& line) {
    std::string answer;
    bool was_said = false;
    EXPECT_TRUE(ask_control(socket_, line, kLong, answer, was_said)) << answer;
    return answer;
  }
  LedgerAnswer ask(const LedgerCommand& command) {
    const auto answer = read_answer(say(write_command(command)));
    EXPECT_TRUE(answer);
    return answer.value_or(LedgerAnswer{});
  }

  std::string path_, socket_;
  Log log_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlTest, LiesBesideTheLedger) {
  EXPECT_EQ(socket_, path_ + "/control.sock");
  EXPECT_EQ(control_path("data/ledger"), "data/control.sock");
  EXPECT_EQ(control_path("data/ledger/"), "data/control.sock");
  EXPECT_EQ(control_path("ledger"), "control.sock");
}

TEST_F(ControlTest, ResolvesARequest) {
  unresolved(1);
  unresolved(2);
  const LedgerAnswer billed = ask({.kind = Kind::kResolve, .id = id(1), .figure = Figure{30, 4}});
  EXPECT_TRUE(billed.ok()) << billed.message;
  EXPECT_NE(billed.message.find("prompt 30, completion 4"), std::string::npos) << billed.message;
  EXPECT_TRUE(ask({.kind = Kind::kResolve, .id = id(2), .figure = {}}).ok());
  EXPECT_EQ(ledger_->counts().by_hand, 2u);
  EXPECT_EQ(ledger_->counts().backlog, 1u);
  EXPECT_EQ(ask({.kind = Kind::kResolve, .id = id(1), .figure = Figure{30, 5}}).status, 409);
  EXPECT_EQ(ask({.kind = Kind::kResolve, .id = id(3), .figure = Figure{30, 5}}).status, 404);
  EXPECT_EQ(ask({.kind = Kind::kRequeue, .id = id(3), .figure = {}}).status, 404);
  EXPECT_EQ(ask({.kind = Kind::kRebill, .id = id(3), .figure = {}}).status, 404);
  EXPECT_TRUE(ask({.kind = Kind::kRequeue, .id = {}, .figure = {}}).ok()) << "none is none";
}

TEST_F(ControlTest, TellsWhetherItAddsUp) {
  unresolved(1);
  ASSERT_TRUE(ledger_->reserve(rig::intent(2)));
  const LedgerAnswer answer = ask({});
  EXPECT_EQ(answer.message,
            "accepted 2 = billed 0 + free 0 + unresolved 1 + in flight 1: it adds up");
  EXPECT_NE(answer.counts.find(R"("in_flight":1)"), std::string::npos) << answer.counts;
  EXPECT_NE(answer.counts.find(R"("adds_up":true)"), std::string::npos) << answer.counts;
  ledger_->release(rig::intent(2));
}

TEST_F(ControlTest, WhatIsNoCommandChangesNothing) {
  unresolved(1);
  const std::string one = R"("id":"000000000000000000000001")";
  const std::string lines[] = {
      "",
      "{}",
      "[]",
      "\"status\"",
      R"({"command":"stop"})",
      R"({"command":"resolve"})",
      R"({"command":"resolve",)" + one + "}",
      R"({"command":"resolve","free":true})",
      R"({"command":"resolve","free":true,"id":"1"})",
      R"({"command":"resolve",)" + one + R"(,"prompt_n":1})",
      R"({"command":"resolve",)" + one + R"(,"prompt_n":-1,"completion_n":2})",
      R"({"command":"resolve",)" + one + R"(,"prompt_n":1,"completion_n":2,"free":true})",
      R"({"command":"resolve",)" + one + R"(,"prompt_n":1,"completion_n":"2"})",
      R"({"command":"requeue"})",
      R"({"command":"requeue","all":true,)" + one + "}",
      R"({"command":"rebill","all":true})",
      std::string("\xff\x00", 2),
  };
  for (const std::string& line : lines) {
    const auto answer = read_answer(say(line));
    ASSERT_TRUE(answer) << line;
    EXPECT_EQ(answer->status, 400) << line;
  }
  EXPECT_EQ(ledger_->counts().by_hand, 0u);
}

TEST_F(ControlTest, LinesAreReadAsTheyAreWritten) {
  const LedgerCommand commands[] = {
      {},
      {.kind = Kind::kResolve, .id = id(1), .figure = Figure{0, kCountMax}},
      {.kind = Kind::kResolve, .id = id(1), .figure = {}},
      {.kind = Kind::kRequeue, .id = id(2), .figure = {}},
      {.kind = Kind::kRequeue, .id = {}, .figure = {}},
      {.kind = Kind::kRebill, .id = id(3), .figure = {}},
  };
  for (const LedgerCommand& command : commands) {
    const auto read = read_command(write_command(command));
    ASSERT_TRUE(read) << write_command(command);
    EXPECT_EQ(read->kind, command.kind);
    EXPECT_EQ(read->id, command.id);
    EXPECT_EQ(read->figure, command.figure);
  }
}

// It holds the thread for kReadMax; the next one has its answer then.
TEST_F(ControlTest, AClientThatSaysNothingKeepsNobodyForEver) {
  std::string problem;
  auto silent = net::LocalConnection::open(socket_, problem);
  ASSERT_TRUE(silent) << problem;
  EXPECT_TRUE(ask({}).ok());
}

TEST_F(ControlTest, NobodyAnswersWhereNobodyServes) {
  server_.reset();
  std::string answer;
  bool was_said = true;
  EXPECT_FALSE(ask_control(socket_, "{}", kLong, answer, was_said));
  EXPECT_FALSE(was_said);
  EXPECT_NE(answer.find("control.sock"), std::string::npos) << answer;
}

}  // namespace
}  // namespace llmproxy
