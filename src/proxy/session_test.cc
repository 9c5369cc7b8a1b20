// A session that is cut wherever it waits: it ends at once, settles, and leaves nothing behind. All
// else about sessions is tested over the real binary.
#include "proxy/session.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "net/test_loop.h"

namespace llmproxy {
namespace {

// Every token is a key; look-ups wait while it hangs.
class AnyKey final : public Database {
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
  void answer() {
    const std::lock_guard lock(mutex_);
    is_hanging_ = false;
    changed_.notify_all();
  }
  BatchResult write_events(std::span<const Event> events) override {
    return {std::vector<Delivery>(events.size(), Delivery::kDelivered)};
  }
  Result<std::string> create_key(const NewKey&) override { return std::string(); }
  Result<std::vector<KeyRecord>> list_keys() override { return std::vector<KeyRecord>(); }
  Result<bool> set_key_expiry(std::string_view, std::optional<WallMs>) override { return false; }
  Result<bool> delete_key(std::string_view) override { return false; }
  std::string check() override { return ""; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_hanging_;
  bool is_asked_ = false;
};

std::string request_text(bool is_stream) {
  const std::string body =
      std::string(R"({"model":"m","messages":[],"stream":)") + (is_stream ? "true}" : "false}");
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-x\r\n"
         "Content-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

// One server with all its parts, a backend that this test plays, and one client.
class CutTest : public testing::Test {
 protected:
  void start(bool has_hanging_keys) {
    std::signal(SIGPIPE, SIG_IGN);
    database = std::make_shared<AnyKey>(has_hanging_keys);
    auto config = std::make_shared<Config>();
    Backend one;
    one.name = "m";
    one.host = "127.0.0.1";
    one.authority = "backend";
    one.port = backend.port();
    config->backends["m"] = one;
    KeyWaits waits;
    waits.first = std::chrono::hours(1);
    ledger = std::make_unique<Ledger>(database, log, Ledger::Settings{});
    const Parts parts{
        log,        *(keys = std::make_unique<KeyStore>(database, log, *config, waits)),
        *ledger,    ids,
        resolver,   memory,
        connections};
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
  ~CutTest() override {
    close(client);
    if (backend_fd >= 0) close(backend_fd);
    keys.reset();  // before the server's loop
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
    backend_fd = backend.accept();
    EXPECT_NE(read_until(backend_fd, "]").find("POST /v1/chat/completions"), std::string::npos);
  }
  void cut() {
    server->abort();
    server->abort();  // a second signal changes nothing
    thread.join();
    EXPECT_EQ(connections, 0u);
    EXPECT_EQ(server->counters().requests.get(), static_cast<uint64_t>(is_request_read ? 1 : 0));
  }

  Log log{2, LogLevel::kCritical};
  net::TestListener backend;
  int backend_fd = -1;
  int client = -1;
  bool is_request_read = true;
  std::shared_ptr<AnyKey> database;
  std::unique_ptr<Ledger> ledger;
  ObjectIdMint ids;
  net::Resolver resolver;
  MemoryBudget memory{1 << 30};
  std::atomic<size_t> connections{0};
  std::unique_ptr<Server> server;
  std::unique_ptr<KeyStore> keys;
  std::thread thread;
};

TEST_F(CutTest, BetweenRequests) {
  start(false);
  is_request_read = false;
  while (server->counters().connections.get() == 0) std::this_thread::yield();
  cut();
  EXPECT_EQ(read_until(client, "\r\n"), "");
}

TEST_F(CutTest, MessagesAfterItsEndAreRunBeforeItsPartsGo) {
  start(false);
  is_request_read = false;
  while (server->counters().connections.get() == 0) std::this_thread::yield();
  cut();
  bool is_told = false;
  server->abort();
  server->reload(std::make_shared<Config>(), [&] { is_told = true; });
  keys.reset();
  server.reset();
  EXPECT_TRUE(is_told);
}

TEST_F(CutTest, InTheLookUpOfTheKey) {
  start(true);
  net::send_text(client, request_text(false));
  database->wait_for_question();
  cut();
  database->answer();
  EXPECT_EQ(read_until(client, "\r\n").substr(0, 13), "HTTP/1.1 503 ");
}

TEST_F(CutTest, BeforeTheReplysHead) {
  start(false);
  net::send_text(client, request_text(false));
  take_call();
  cut();
  EXPECT_EQ(read_until(client, "\r\n").substr(0, 13), "HTTP/1.1 503 ");
  EXPECT_EQ(ledger->counts().free, 1u);
}

TEST_F(CutTest, InTheMiddleOfAStream) {
  start(false);
  net::send_text(client, request_text(true));
  take_call();
  net::send_text(backend_fd,
                 "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                 "Transfer-Encoding: chunked\r\n\r\n18\r\ndata: {\"choices\":[{}]}\n\n\r\n");
  EXPECT_EQ(read_until(client, "\n\n").substr(0, 13), "HTTP/1.1 200 ");
  cut();
  EXPECT_NE(read_until(client, "shutting down").find("shutting down"), std::string::npos);
  EXPECT_EQ(ledger->counts().unresolved, 1u);
}

}  // namespace
}  // namespace llmproxy
