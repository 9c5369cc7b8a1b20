// A session that is cut wherever it waits: it ends at once, settles, and leaves nothing behind. And
// what cannot be brought about from outside: a ledger that cannot record, a lack of memory. All
// else about sessions is tested over the real binary.
#include "proxy/session.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>  // mkdtemp is POSIX's

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <memory>
#include <mutex>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "base/test_allocations.h"
#include "billing/test_database.h"
#include "billing/test_gates.h"
#include "billing/test_waiter.h"
#include "net/test_loop.h"

namespace llmproxy {
namespace {

// Every token is a key; look-ups wait while it hangs.
class AnyKey final : public TestDatabase {
 public:
  explicit AnyKey(bool is_hanging) : is_hanging_(is_hanging) {}
  KeyLookup find_key(std::string_view, std::string_view, WallMs) override {
    std::unique_lock lock(mutex_);
    is_asked_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !is_hanging_; });
    KeyLookup found;
    found.state = KeyLookup::State::kFound;
    found.key.id = "key";
    return found;
  }
  void wait_for_question() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_asked_; });
  }
  void answer() { hang(false); }
  void hang(bool is_hanging) {
    const std::lock_guard lock(mutex_);
    is_hanging_ = is_hanging;
    is_asked_ = false;
    changed_.notify_all();
  }
  BatchResult write_events(std::span<const Event> events) override {
    return {std::vector<Delivery>(events.size(), Delivery::kDelivered)};
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_hanging_;
  bool is_asked_ = false;
};

std::string request_text(bool is_stream, const std::string& model = "m") {
  const std::string body =
      R"({"model":")" + model + R"(","messages":[],"stream":)" + (is_stream ? "true}" : "false}");
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-x\r\n"
         "Content-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

const std::string kPlainReply =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\r\n"
    R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}})";
const std::string kStreamHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

std::string chunk(const std::string& payload) {
  return fmt::format("{:x}\r\n{}\r\n", payload.size(), payload);
}

// Says "word N", and that N tokens were made.
std::string usage_event(int n, bool is_final = false) {
  return fmt::format(
      R"(data: {{"choices":[{{"index":0,"delta":{{"content":"word {}"}},"finish_reason":{}}}],)"
      R"("usage":{{"prompt_tokens":7,"completion_tokens":{}}}}})"
      "\n\n",
      n, is_final ? "\"stop\"" : "null", n);
}

// For what other threads bring about.
template <class Condition>
void wait_until(const Condition& condition) {
  const MonotonicTime limit = monotonic_now() + std::chrono::seconds(20);
  while (!condition()) {
    if (monotonic_now() > limit) net::test_failed("not in time");
    std::this_thread::yield();
  }
}

// Nothing comes for a while in which it would have come.
bool is_quiet(int fd) {
  constexpr int kQuietMs = 200;
  pollfd one{fd, POLLIN, 0};
  return poll(&one, 1, kQuietMs) == 0;
}

// A name server that answers when it is let to.
std::binary_semaphore name_asked{0};
std::binary_semaphore name_answer{0};
std::vector<net::Address> slow_name(const std::string&, uint16_t, std::string& error) {
  name_asked.release();
  name_answer.acquire();
  error = "no such name";
  return {};
}

// One server with all its parts, a backend that this test plays, and one client.
class SessionTest : public testing::Test {
 protected:
  void start(bool has_hanging_keys, const std::string& host = "127.0.0.1",
             const std::string& model = "m") {
    std::signal(SIGPIPE, SIG_IGN);
    database = std::make_shared<AnyKey>(has_hanging_keys);
    config = std::make_shared<Config>();
    Backend one;
    one.name = model;
    one.host = host;
    one.authority = "backend";
    one.port = backend.port();
    config->backends[model] = one;
    config->key_ttl = Milliseconds(0);
    config->timeout_connect = std::chrono::hours(1);
    KeyWaits waits;
    waits.first = waits.stale = std::chrono::hours(1);
    config->backends[model].usage = usage;
    start_ledger();
    const Parts parts{log,      *(keys = std::make_unique<KeyStore>(database, log, *config, waits)),
                      *ledger,  ids,
                      resolver, worker,
                      memory,   connections};
    std::string error;
    const net::ListenSocket listen_socket = net::ListenSocket::open("127.0.0.1", 0, error);
    const std::string address = listen_socket.address();
    server = std::make_unique<Server>(parts, config, listen_socket);
    thread = std::thread([this] { server->run(); });
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
    client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(client, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
      net::test_failed("connect");
    }
  }
  // No commit but by somebody who waits alone comes in time, and nothing is written beside
  // requests' records.
  void start_ledger() {
    std::string name = (std::filesystem::temp_directory_path() / "llmproxy-XXXXXX").native();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    ledger_directory = name;
    std::string problem;
    auto real = open_directory(name + "/ledger", problem);
    if (real == nullptr) net::test_failed("open_directory");
    Ledger::Settings settings;
    settings.max_bytes = size_t{16} << 20;
    settings.commit_gap = commit_gap;
    settings.ship_interval = std::chrono::hours(1);
    settings.commit_timeout = commit_timeout;
    auto opened = Ledger::open(std::make_unique<GatedDirectory>(std::move(real), gates), database,
                               log, settings);
    if (!opened) net::test_failed("Ledger::open");
    ledger = std::move(*opened);
  }
  ~SessionTest() override {
    gates->write.open();
    if (thread.joinable()) {  // the test has failed
      server->abort();
      thread.join();
    }
    close(client);
    if (backend_fd >= 0) close(backend_fd);
    keys.reset();  // before the server's loop
    ledger.reset();
    std::filesystem::remove_all(ledger_directory);
  }

  static std::string read_until(int fd, const std::string& end) {
    std::string text;
    std::array<char, 4096> buffer;
    while (text.find(end) == std::string::npos) {
      const ssize_t n = recv(fd, buffer.data(), buffer.size(), 0);
      if (n <= 0) break;
      text.append(buffer.data(), static_cast<size_t>(n));
    }
    return text;
  }
  // The call has come whole to the backend.
  void take_call() {
    if (backend_fd < 0) backend_fd = backend.accept();
    EXPECT_NE(read_until(backend_fd, "]").find("POST /v1/chat/completions"), std::string::npos);
  }
  // These two counts stand side by side in one of the ledger's files.
  bool is_recorded(uint64_t prompt_n, uint64_t completion_n) const {
    const std::array<uint64_t, 2> counts{prompt_n, completion_n};
    const std::string_view wanted(reinterpret_cast<const char*>(counts.data()), sizeof counts);
    const std::filesystem::directory_iterator files(ledger_directory / "ledger");
    return std::any_of(begin(files), end(files), [&](const auto& file) {
      std::ifstream stream(file.path(), std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
      return bytes.find(wanted) != std::string::npos;
    });
  }
  // Calls of operator new on the server's thread so far.
  size_t server_allocations() {
    std::promise<size_t> told;
    server->reload(config, [&told] { told.set_value(allocations); });
    return told.get_future().get();
  }
  // What a stream of such events allocates once it is under way.
  template <class Event>
  size_t allocations_of(const Event& event) {
    constexpr int kFirst = 20, kCounted = 100;
    net::send_text(client, request_text(true));
    take_call();
    net::send_text(backend_fd, kStreamHead);
    const auto pass_on = [&](int from, int to) {
      for (int i = from; i < to; ++i) {
        net::send_text(backend_fd, chunk(event(i)));
        EXPECT_NE(read_until(client, "\n\n\r\n").find("word"), std::string::npos);
      }
    };
    pass_on(0, kFirst);
    const size_t before = server_allocations();
    pass_on(kFirst, kFirst + kCounted);
    const size_t after = server_allocations();
    net::send_text(backend_fd,
                   chunk(usage_event(1, true)) + chunk("data: [DONE]\n\n") + "0\r\n\r\n");
    EXPECT_NE(read_until(client, "0\r\n\r\n").find("[DONE]"), std::string::npos);
    return after - before;
  }
  void cut() {
    server->abort();
    server->abort();  // a second signal changes nothing
    thread.join();
    EXPECT_EQ(connections, 0u);
    EXPECT_EQ(server->counters().requests.get(), requests_read);
  }

  Log log{2, LogLevel::kCritical};
  net::TestListener backend;
  int backend_fd = -1;
  int client = -1;
  uint64_t requests_read = 1;
  std::shared_ptr<AnyKey> database;
  std::shared_ptr<Config> config;
  Milliseconds commit_timeout{std::chrono::hours(1)}, commit_gap{std::chrono::hours(1)};
  UsagePolicy usage = UsagePolicy::kAsk;
  // Shared with the ledger's threads, which may be left behind.
  const std::shared_ptr<Gates> gates = std::make_shared<Gates>();  // the ledger's disk
  std::filesystem::path ledger_directory;
  std::unique_ptr<Ledger> ledger;
  ObjectIdMint ids;
  MemoryBudget memory{1 << 30};
  std::atomic<size_t> connections{0};
  std::unique_ptr<Server> server;
  net::Resolver resolver{slow_name};
  net::Worker worker;
  std::unique_ptr<KeyStore> keys;
  std::thread thread;
};

TEST_F(SessionTest, BetweenRequests) {
  start(false);
  requests_read = 0;
  while (server->counters().connections.get() == 0) std::this_thread::yield();
  cut();
  EXPECT_EQ(read_until(client, "\r\n"), "");
}

TEST_F(SessionTest, MessagesAfterItsEndAreRunBeforeItsPartsGo) {
  start(false);
  requests_read = 0;
  while (server->counters().connections.get() == 0) std::this_thread::yield();
  cut();
  bool is_told = false;
  server->abort();
  server->reload(std::make_shared<Config>(), [&] { is_told = true; });
  keys.reset();
  server.reset();
  EXPECT_TRUE(is_told);
}

TEST_F(SessionTest, InTheLookUpOfTheKey) {
  start(true);
  net::send_text(client, request_text(false));
  database->wait_for_question();
  cut();
  database->answer();
  EXPECT_EQ(read_until(client, "\r\n").substr(0, 13), "HTTP/1.1 503 ");
}

// A key that was seen before serves when the wait for the database ends; the call must not go out.
TEST_F(SessionTest, InTheRefreshOfAKnownKey) {
  start(false);
  requests_read = 2;
  net::send_text(client, request_text(false));
  take_call();
  net::send_text(backend_fd, kPlainReply);
  EXPECT_NE(read_until(client, "}}").find("200 OK"), std::string::npos);
  database->hang(true);
  net::send_text(client, request_text(false));
  database->wait_for_question();
  cut();
  database->answer();
  EXPECT_EQ(read_until(client, "\r\n").substr(0, 13), "HTTP/1.1 503 ");
  EXPECT_EQ(read_until(backend_fd, "POST"), "");
  EXPECT_EQ(ledger->counts().billed, 1u);
  EXPECT_EQ(ledger->counts().free, 1u);
}

TEST_F(SessionTest, WhileItConnects) {
  start(false, "name.example");
  net::send_text(client, request_text(false));
  name_asked.acquire();
  cut();
  EXPECT_EQ(read_until(client, "\r\n").substr(0, 13), "HTTP/1.1 503 ");
  EXPECT_EQ(ledger->counts().free, 1u);
  name_answer.release();
}

TEST_F(SessionTest, BeforeTheReplysHead) {
  start(false);
  net::send_text(client, request_text(false));
  take_call();
  cut();
  EXPECT_EQ(read_until(client, "\r\n").substr(0, 13), "HTTP/1.1 503 ");
  EXPECT_EQ(ledger->counts().free, 1u);
}

TEST_F(SessionTest, InTheMiddleOfAStream) {
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead + chunk("data: {\"choices\":[{}]}\n\n"));
  EXPECT_EQ(read_until(client, "\n\n").substr(0, 13), "HTTP/1.1 200 ");
  cut();
  EXPECT_NE(read_until(client, "shutting down").find("shutting down"), std::string::npos);
  EXPECT_EQ(ledger->counts().unresolved, 1u);
}

// Of nothing but its end: only a figure is waited for.
TEST_F(SessionTest, DrainedAfterTheEndOfAnAnswerWithoutFigure) {
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd,
                 kStreamHead + chunk("data: {\"choices\":[{}]}\n\n") + chunk("data: [DONE]\n\n"));
  EXPECT_NE(read_until(client, "0\r\n\r\n").find("[DONE]"), std::string::npos);
  server->drain();
  thread.join();
  EXPECT_EQ(connections, 0u);
  EXPECT_EQ(ledger->counts().unresolved, 1u);
}

TEST_F(SessionTest, APlainReplyThatCannotBeRecordedIsNotSent) {
  start(false);
  net::send_text(client, request_text(false));
  take_call();
  ledger->close(Milliseconds(0));
  net::send_text(backend_fd, kPlainReply);
  const std::string reply = read_until(client, "}}");
  EXPECT_EQ(reply.substr(0, 13), "HTTP/1.1 503 ");
  EXPECT_EQ(reply.find("usage"), std::string::npos);
  cut();
  EXPECT_EQ(server->counters().free.get(), 1u);
  EXPECT_EQ(server->counters().billed.get(), 0u);
}

TEST_F(SessionTest, AStreamWhoseEndCannotBeRecordedIsCut) {
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead + chunk("data: {\"choices\":[{}]}\n\n"));
  EXPECT_EQ(read_until(client, "\n\n").substr(0, 13), "HTTP/1.1 200 ");
  ledger->close(Milliseconds(0));
  net::send_text(backend_fd, chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,"
                                   "\"completion_tokens\":3}}\n\ndata: [DONE]\n\n") +
                                 "0\r\n\r\n");
  const std::string rest = read_until(client, "0\r\n\r\n");
  EXPECT_NE(rest.find("cannot record"), std::string::npos) << rest;
  EXPECT_EQ(rest.find("[DONE]"), std::string::npos) << rest;
  EXPECT_FALSE(rest.ends_with("0\r\n\r\n")) << rest;
  cut();
  EXPECT_EQ(server->counters().billed.get(), 1u);  // it waits in the ledger
}

TEST_F(SessionTest, ALoneRequestPaysOneCommitAndALoneStreamTwo) {
  start(false);
  requests_read = 2;
  net::send_text(client, request_text(false));
  take_call();
  net::send_text(backend_fd, kPlainReply);
  EXPECT_NE(read_until(client, "}}").find("200 OK"), std::string::npos);
  EXPECT_EQ(ledger->counts().commits, 1u);
  net::send_text(client, request_text(true));
  EXPECT_NE(read_until(backend_fd, "]").find("POST"), std::string::npos);
  net::send_text(backend_fd, kStreamHead + chunk(usage_event(2)));
  EXPECT_NE(read_until(client, "word 2").find("200 OK"), std::string::npos);
  net::send_text(backend_fd, chunk(usage_event(3, true)) + chunk("data: [DONE]\n\n") + "0\r\n\r\n");
  EXPECT_NE(read_until(client, "0\r\n\r\n").find("[DONE]"), std::string::npos);
  EXPECT_EQ(ledger->counts().commits, 3u);
  cut();
  EXPECT_EQ(ledger->counts().billed, 2u);
}

// Its intent was not written yet: it needs none.
TEST_F(SessionTest, AStreamThatCameWholeIsRecordedOnceAndSentAfterwards) {
  commit_gap = Milliseconds(1);
  start(false);
  gates->write.close();
  Intent other;
  ASSERT_TRUE(ledger->reserve(other));
  TestWaiter opened, settled;
  ledger->open(other, false, opened);
  ledger->await(opened);
  gates->write.await_someone();  // writes a group without ours
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead + chunk(usage_event(3, true)) + chunk("data: [DONE]\n\n") +
                                 "0\r\n\r\n");
  wait_until([&] { return ledger->counts().billed == 1; });
  EXPECT_TRUE(is_quiet(client)) << "before its bill is recorded";
  gates->write.open();
  EXPECT_TRUE(opened.wait());
  EXPECT_NE(read_until(client, "0\r\n\r\n").find("[DONE]"), std::string::npos);
  EXPECT_EQ(ledger->counts().commits, 2u);
  cut();
  ledger->settle({.intent = other, .has_intent = true, .outcome = {}}, settled);
  settled.wait();
}

TEST_F(SessionTest, WhileTheDiskFailsNothingIsSentAndNothingIsCharged) {
  start(false);
  requests_read = 2;
  gates->write.fail(EIO);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead + chunk("data: {\"choices\":[{}]}\n\n"));
  const std::string reply = read_until(client, "}}");
  EXPECT_EQ(reply.substr(0, 13), "HTTP/1.1 503 ");
  EXPECT_NE(reply.find("x-should-retry: false"), std::string::npos) << "it was worked for";
  EXPECT_EQ(reply.find("choices"), std::string::npos);
  net::send_text(client, request_text(false));
  const std::string refusal = read_until(client, "}}");
  EXPECT_EQ(refusal.substr(0, 13), "HTTP/1.1 503 ");
  EXPECT_NE(refusal.find("\"overloaded\""), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("Retry-After: "), std::string::npos) << refusal;
  EXPECT_EQ(ledger->refusal(), "the ledger's disk fails: Input/output error");
  gates->write.open();
  cut();
  EXPECT_EQ(ledger->counts().free, 1u);
  EXPECT_EQ(ledger->counts().accepted, 1u);
}

TEST_F(SessionTest, AStreamThatCameWholeAndCannotBeRecordedIsAnError) {
  start(false);
  gates->write.fail(EIO);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead + chunk(usage_event(3, true)) + chunk("data: [DONE]\n\n") +
                                 "0\r\n\r\n");
  const std::string reply = read_until(client, "}}");
  EXPECT_EQ(reply.substr(0, 13), "HTTP/1.1 503 ");
  EXPECT_EQ(reply.find("word"), std::string::npos);
  gates->write.open();
  cut();
  EXPECT_EQ(ledger->counts().free, 1u);
  EXPECT_EQ(ledger->counts().billed, 0u);
}

TEST_F(SessionTest, WhileTheDiskIsSlowAnswersWaitAndNewWorkIsRefused) {
  commit_timeout = Milliseconds(1);
  start(false);
  gates->write.close();
  net::send_text(client, request_text(false));
  take_call();
  net::send_text(backend_fd, kPlainReply);
  gates->write.await_someone();
  wait_until([&] { return ledger->is_stalled(); });
  EXPECT_FALSE(ledger->reserve({}));
  EXPECT_NE(ledger->refusal().find("disk is slow"), std::string::npos) << ledger->refusal();
  EXPECT_TRUE(is_quiet(client)) << "before its bill is recorded";
  gates->write.open();
  EXPECT_NE(read_until(client, "}}").find("200 OK"), std::string::npos);
  cut();
  EXPECT_EQ(ledger->counts().billed, 1u);
}

// The outcome is recorded when the disk works again, however long that takes.
TEST_F(SessionTest, AStreamsOutcomeWaitsForTheDisk) {
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead + chunk(usage_event(3, true)));
  EXPECT_EQ(read_until(client, "\n\n").substr(0, 13), "HTTP/1.1 200 ");
  gates->write.fail(EIO);
  net::send_text(backend_fd, chunk("data: [DONE]\n\n") + "0\r\n\r\n");
  wait_until([&] { return ledger->is_stalled(); });
  EXPECT_EQ(ledger->counts().billed, 1u);
  gates->write.open();
  EXPECT_NE(read_until(client, "0\r\n\r\n").find("[DONE]"), std::string::npos);
  cut();
}

TEST_F(SessionTest, NothingOfAStreamIsSentBeforeItsIntentIsRecorded) {
  start(false);
  gates->write.close();
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead + chunk(usage_event(1)));
  gates->write.await_someone();
  EXPECT_TRUE(is_quiet(client));
  gates->write.open();
  EXPECT_NE(read_until(client, "\n\n").find("word 1"), std::string::npos);
  cut();
  EXPECT_EQ(ledger->counts().unresolved, 1u);
}

// Of any kind: one like those before it, one that must be read, one that is read and rewritten.
TEST_F(SessionTest, AStreamedEventAllocatesNothing) {
  start(false);
  requests_read = 3;
  EXPECT_EQ(allocations_of([](int i) {
              return fmt::format(
                  "data: {{\"choices\":[{{\"delta\":{{\"content\":\"word {}\"}}}}]}}\n\n", i);
            }),
            0u);
  EXPECT_EQ(allocations_of([](int i) {
              return fmt::format(
                  "data: {{\"n\":{},\"choices\":[{{\"delta\":{{\"content\":\"word\"}}}}]}}\n\n", i);
            }),
            0u);
  EXPECT_EQ(allocations_of([](int i) { return usage_event(100 + i); }), 0u);
  cut();
  EXPECT_EQ(ledger->counts().billed, 3u);
}

TEST_F(SessionTest, AStreamThatComesWholeIsSentWholeOnceItIsRecorded) {
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  wait_until([&] { return ledger->counts().commits == 1; });  // its intent
  const std::string stream = chunk(usage_event(3, true)) + chunk("data: [DONE]\n\n") + "0\r\n\r\n";
  gates->write.close();
  net::send_text(backend_fd, kStreamHead + stream);
  gates->write.await_someone();
  EXPECT_TRUE(is_quiet(client)) << "before its bill is recorded";
  gates->write.open();
  const std::string reply = read_until(client, "0\r\n\r\n");
  EXPECT_EQ(reply.substr(0, 13), "HTTP/1.1 200 ");
  EXPECT_NE(reply.find("word 3"), std::string::npos);
  EXPECT_TRUE(reply.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n")) << reply;
  requests_read = 2;
  net::send_text(client, request_text(true));  // and its connection serves the next
  EXPECT_NE(read_until(backend_fd, "]").find("POST /v1/chat/completions"), std::string::npos);
  cut();
  EXPECT_EQ(ledger->counts().billed, 1u);
}

// The last figure is told when its turn comes, although no other event does.
TEST_F(SessionTest, ContinuousStreamsTellTheirProgress) {
  usage = UsagePolicy::kContinuous;
  commit_gap = Milliseconds(1);
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead);
  EXPECT_EQ(read_until(client, "\r\n\r\n").substr(0, 13), "HTTP/1.1 200 ");
  for (int n = 1; n <= 20; ++n) {
    net::send_text(backend_fd, chunk(usage_event(n)));
    read_until(client, "\n\n");
  }
  wait_until([&] { return is_recorded(7, 20); });
  EXPECT_LT(ledger->counts().commits, 10u) << "not one for each";
  cut();
  EXPECT_EQ(ledger->counts().billed, 1u);
}

TEST_F(SessionTest, OtherStreamsTellNoProgress) {
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead + chunk(usage_event(1)));
  EXPECT_EQ(read_until(client, "\n\n").substr(0, 13), "HTTP/1.1 200 ");
  cut();
  EXPECT_EQ(ledger->counts().unresolved, 1u);
  EXPECT_EQ(ledger->counts().commits, 2u);
}

TEST_F(SessionTest, AContinuousStreamDoesNotOutrunTheDisk) {
  commit_timeout = Milliseconds(1);
  usage = UsagePolicy::kContinuous;
  commit_gap = Milliseconds(1);
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead);
  EXPECT_EQ(read_until(client, "\r\n\r\n").substr(0, 13), "HTTP/1.1 200 ");
  gates->write.close();
  net::send_text(backend_fd, chunk(usage_event(1)));
  EXPECT_NE(read_until(client, "\n\n").find("word 1"), std::string::npos);
  gates->write.await_someone();
  wait_until([&] { return ledger->is_stalled(); });
  net::send_text(backend_fd, chunk(usage_event(2)));
  EXPECT_TRUE(is_quiet(client)) << "what could not be billed after a crash";
  gates->write.open();
  EXPECT_NE(read_until(client, "\n\n").find("word 2"), std::string::npos);
  cut();
  EXPECT_EQ(ledger->counts().billed, 1u);
}

TEST_F(SessionTest, AContinuousStreamThatWaitsForTheDiskIsCut) {
  usage = UsagePolicy::kContinuous;
  commit_gap = Milliseconds(1);
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd, kStreamHead);
  EXPECT_EQ(read_until(client, "\r\n\r\n").substr(0, 13), "HTTP/1.1 200 ");
  gates->write.fail(EIO);
  net::send_text(backend_fd, chunk(usage_event(1)));
  wait_until([&] { return ledger->is_stalled(); });
  net::send_text(backend_fd, chunk(usage_event(2)));
  EXPECT_NE(read_until(client, "\n\n").find("word 1"), std::string::npos);
  EXPECT_TRUE(is_quiet(client));
  server->abort();
  wait_until([&] { return ledger->counts().billed > 0; });
  EXPECT_TRUE(ledger->is_stalled());
  gates->write.open();
  cut();
}

// A name whose copies are told from all other allocations by their size.
constexpr size_t kLongModel = 717;
constexpr size_t kCopyOfModel = kLongModel + 1;

// The bill must not go with the request that could not be recorded for a lack of memory.
TEST_F(SessionTest, ABugWhileItIsRecordedLeavesItUnresolved) {
  const std::string model(kLongModel, 'm');
  start(false, "127.0.0.1", model);
  net::send_text(client, request_text(false, model));
  take_call();
  allocation_fault.arm(kCopyOfModel, 0, kCopyOfModel);
  net::send_text(backend_fd, kPlainReply);
  EXPECT_EQ(read_until(client, "\r\n"), "");  // closed without a word
  cut();
  EXPECT_FALSE(allocation_fault.is_armed());
  EXPECT_EQ(ledger->counts().unresolved, 1u);
}

TEST_F(SessionTest, ABugBeforeTheCallLeavesItsIntentInPeace) {
  const std::string model(kLongModel, 'm');
  start(false, "127.0.0.1", model);
  allocation_fault.arm(kCopyOfModel, 3, kCopyOfModel);  // not before it has room: of the intent
  net::send_text(client, request_text(true, model));
  EXPECT_EQ(read_until(client, "\r\n"), "");
  cut();
  EXPECT_FALSE(allocation_fault.is_armed());
  EXPECT_EQ(ledger->counts().free, 1u);
}

}  // namespace
}  // namespace llmproxy
