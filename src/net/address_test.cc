// Addresses as text, and the resolver: waiting, giving up, its bound, and its end.
#include "net/address.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "net/test_loop.h"

namespace llmproxy::net {
namespace {

TEST(Address, LiteralsAndText) {
  struct Case {
    const char* host;
    uint16_t port;
    const char* text;  // "": no literal
  };
  for (const Case& c : {
           Case{"127.0.0.1", 8080, "127.0.0.1:8080"},
           Case{"0.0.0.0", 0, "0.0.0.0:0"},
           Case{"::1", 443, "[::1]:443"},
           Case{"2001:db8:0:0:0:0:0:1", 65535, "[2001:db8::1]:65535"},
           Case{"localhost", 80, ""},
           Case{"[::1]", 80, ""},
           Case{"127.1", 80, ""},
           Case{"", 80, ""},
       }) {
    const std::optional<Address> address = Address::from_literal(c.host, c.port);
    EXPECT_EQ(address ? address->text() : "", c.text) << c.host;
  }
}

TEST(ResolveNow, TakesLiteralsAndRefusesBadNames) {
  std::string error;
  const std::vector<Address> addresses = resolve_now("127.0.0.1", 80, error);
  ASSERT_EQ(addresses.size(), 1u);
  EXPECT_EQ(addresses[0].text(), "127.0.0.1:80");
  EXPECT_EQ(error, "");
  EXPECT_TRUE(resolve_now("a name with blanks", 80, error).empty());
  EXPECT_NE(error, "");
}

// Look-ups of this name server wait until they are let go.
struct SlowNames {
  std::mutex mutex;
  std::condition_variable changed;
  bool is_open = false;
  std::vector<std::string> asked;
  size_t answered = 0;

  static SlowNames* current;
  static std::vector<Address> look_up(const std::string& host, uint16_t port, std::string& error) {
    SlowNames& names = *current;
    std::unique_lock lock(names.mutex);
    names.asked.push_back(host);
    names.changed.notify_all();
    names.changed.wait(lock, [&] { return names.is_open; });
    ++names.answered;
    names.changed.notify_all();
    if (host == "bad") {
      error = "no such name";
      return {};
    }
    return {*Address::from_literal("127.0.0.9", port)};
  }
  void wait_for_asked(size_t count) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return asked.size() >= count; });
  }
  void open() {
    const std::lock_guard lock(mutex);
    is_open = true;
    changed.notify_all();
  }
  void wait_for_answered(size_t count) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return answered >= count; });
  }
};
SlowNames* SlowNames::current = nullptr;

class ResolverTest : public testing::Test {
 protected:
  ResolverTest() { SlowNames::current = &names; }
  SlowNames names;
};

constexpr const char* kGivenUp = "given up";

Task<void> resolve_into(Resolver& resolver, Loop& loop, std::string host, MonotonicTime deadline,
                        std::vector<Resolved>& out) {
  const auto question = resolver.ask(std::move(host), 80);
  co_await resolver.wait(loop, question, deadline);
  out.push_back(question->answer() != nullptr ? *question->answer() : Resolved{{}, kGivenUp});
}

Task<void> stop_when(Loop& loop, const std::vector<Resolved>& out, size_t count) {
  while (out.size() < count) co_await NextRound(loop);
  loop.stop();
}

void run_until(Loop& loop, const std::vector<Resolved>& out, size_t count) {
  const Watchdog watchdog(loop);
  spawn(stop_when(loop, out, count));
  loop.run();
}

TEST_F(ResolverTest, AnswersAndErrors) {
  Loop loop;
  Resolver resolver(SlowNames::look_up);
  std::vector<Resolved> out;
  spawn(resolve_into(resolver, loop, "good", soon(), out));
  spawn(resolve_into(resolver, loop, "bad", soon(), out));
  spawn(resolve_into(resolver, loop, "127.0.0.1", soon(), out));
  ASSERT_EQ(out.size(), 1u);  // a literal is not waited for
  EXPECT_EQ(out[0].addresses.at(0).text(), "127.0.0.1:80");
  names.open();
  run_until(loop, out, 3);
  ASSERT_EQ(out.size(), 3u);
  for (size_t i = 1; i < 3; ++i) {
    EXPECT_EQ(out[i].addresses.empty(), out[i].error == "no such name");
  }
  EXPECT_NE(out[1].addresses.empty(), out[2].addresses.empty());
}

TEST_F(ResolverTest, HangingLookUpIsGivenUpAndLeftBehind) {
  std::vector<Resolved> out;
  {
    Loop loop;
    Resolver resolver(SlowNames::look_up);
    spawn(resolve_into(resolver, loop, "good", loop.now() + Milliseconds(1), out));
    names.wait_for_asked(1);
    run_until(loop, out, 1);
    ASSERT_EQ(out.size(), 1u);
    EXPECT_EQ(out[0].error, kGivenUp);
    EXPECT_TRUE(out[0].addresses.empty());
  }  // neither the resolver nor the loop waits for it
  names.open();
  names.wait_for_answered(1);
}

TEST_F(ResolverTest, QueueIsBounded) {
  Loop loop;
  Resolver resolver(SlowNames::look_up);
  std::vector<Resolved> out;
  for (size_t i = 0; i < Resolver::kThreads; ++i) {
    spawn(resolve_into(resolver, loop, "first", soon(), out));
  }
  names.wait_for_asked(Resolver::kThreads);
  for (size_t i = 0; i < Resolver::kQueueMax; ++i) {
    spawn(resolve_into(resolver, loop, "queued", soon(), out));
  }
  EXPECT_TRUE(out.empty());
  spawn(resolve_into(resolver, loop, "one too many", soon(), out));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].error, "too many names waiting to be resolved");
  names.open();
  run_until(loop, out, 1 + Resolver::kQueueMax + Resolver::kThreads);
  EXPECT_EQ(out.size(), 1 + Resolver::kQueueMax + Resolver::kThreads);
}

Task<void> wait_for(Resolver& resolver, Loop& loop, std::shared_ptr<Resolver::Question> question,
                    Interrupt* interrupt, std::vector<Resolved>& out) {
  co_await resolver.wait(loop, question, soon(), interrupt);
  out.push_back(question->answer() != nullptr ? *question->answer() : Resolved{{}, kGivenUp});
}

TEST_F(ResolverTest, ManyWaitForOneLookUp) {
  Loop loop;
  Resolver resolver(SlowNames::look_up);
  std::vector<Resolved> out;
  const auto question = resolver.ask("good", 80);
  for (int i = 0; i < 100; ++i) spawn(wait_for(resolver, loop, question, nullptr, out));
  names.wait_for_asked(1);
  EXPECT_TRUE(out.empty());
  names.open();
  run_until(loop, out, 100);
  EXPECT_EQ(names.asked.size(), 1u);
  for (const Resolved& resolved : out) EXPECT_EQ(resolved.addresses.size(), 1u);
}

TEST_F(ResolverTest, AWaitIsInterrupted) {
  Loop loop;
  Resolver resolver(SlowNames::look_up);
  Interrupt interrupt;
  std::vector<Resolved> out;
  const auto question = resolver.ask("good", 80);
  spawn(wait_for(resolver, loop, question, &interrupt, out));
  EXPECT_TRUE(out.empty());
  interrupt.fire();
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].error, kGivenUp);
  names.open();
  spawn(wait_for(resolver, loop, question, nullptr, out));
  run_until(loop, out, 2);
  EXPECT_EQ(out[1].addresses.size(), 1u);
}

class OpenLater final : public Timer {
 public:
  OpenLater(Loop& loop, SlowNames& names) : Timer(loop), names_(names) { arm(loop.now()); }

 private:
  void on_deadline() override { names_.open(); }  // after what has been due longer
  SlowNames& names_;
};

TEST_F(ResolverTest, WhoGaveUpIsNotLookedUp) {
  Loop loop;
  Resolver resolver(SlowNames::look_up);
  std::vector<Resolved> out;
  for (size_t i = 0; i < Resolver::kThreads; ++i) {
    spawn(resolve_into(resolver, loop, "first", soon(), out));
  }
  names.wait_for_asked(Resolver::kThreads);
  const MonotonicTime past = loop.now() - std::chrono::seconds(1);
  for (int i = 0; i < 10; ++i) spawn(resolve_into(resolver, loop, "nobody waits", past, out));
  spawn(resolve_into(resolver, loop, "last", soon(), out));
  const OpenLater later(loop, names);
  run_until(loop, out, Resolver::kThreads + 11);
  const std::lock_guard lock(names.mutex);
  EXPECT_EQ(names.asked.size(), Resolver::kThreads + 1);
  EXPECT_EQ(names.asked.back(), "last");
}

}  // namespace
}  // namespace llmproxy::net
