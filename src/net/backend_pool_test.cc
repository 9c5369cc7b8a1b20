// The pool against listening sockets of this thread (the kernel accepts for them) and scripted
// names.
#include "net/backend_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "net/test_loop.h"

namespace llmproxy::net {
namespace {

struct Fixture {
  explicit Fixture(Loop& loop, Resolver::LookUp* look_up = resolve_now,
                   Milliseconds sweep = BackendPool::kSweep)
      : resolver(look_up), pool(loop, resolver, blocks, sweep) {}
  Resolver resolver;
  BlockPool blocks;
  BackendPool pool;
};

Backend backend_at(uint16_t port, std::string host = "127.0.0.1") {
  Backend backend;
  backend.host = std::move(host);
  backend.port = port;
  return backend;
}

// A connection, made or failing the test.
Task<std::unique_ptr<BackendConnection>> open(BackendPool& pool, const Backend& backend) {
  Connected connected = co_await pool.connect(backend, soon());
  EXPECT_NE(connected.connection, nullptr) << connected.error;
  co_return std::move(connected.connection);
}

Task<void> reuse(Loop& loop) {
  Fixture fixture(loop);
  BackendPool& pool = fixture.pool;
  const TestListener listener, other_listener;
  const Backend backend = backend_at(listener.port());
  EXPECT_EQ(pool.take_idle(backend), nullptr);
  auto first = co_await open(pool, backend);
  auto second = co_await open(pool, backend);
  EXPECT_FALSE(first->is_reused);
  BackendConnection* const first_one = first.get();
  BackendConnection* const second_one = second.get();
  pool.give_back(std::move(first), BackendPool::kIdleMax);
  pool.give_back(std::move(second), BackendPool::kIdleMax);
  EXPECT_EQ(pool.idle_count(), 2u);

  EXPECT_EQ(pool.take_idle(backend_at(other_listener.port())), nullptr);  // another origin
  Backend verifying = backend;
  verifying.is_https = true;
  EXPECT_EQ(pool.take_idle(verifying), nullptr);
  Backend trusting_others = backend;
  trusting_others.ca_digest[0] = 1;
  EXPECT_EQ(pool.take_idle(trusting_others), nullptr);
  Backend same = backend;
  same.name = "another model";
  auto taken = pool.take_idle(same);
  EXPECT_EQ(taken.get(), second_one);  // last in, first out
  EXPECT_TRUE(taken->is_reused);
  EXPECT_EQ(pool.take_idle(backend).get(), first_one);
  EXPECT_EQ(pool.take_idle(backend), nullptr);
}

TEST(BackendPool, ReusesTheLastOneFirst) {
  run_on_loop(reuse);
}

Task<void> idle_events(Loop& loop) {
  Fixture fixture(loop);
  const TestListener listener;
  const Backend backend = backend_at(listener.port());
  for (const char* what : {"fin", "byte", "reset"}) {
    auto connection = co_await open(fixture.pool, backend);
    auto kept = co_await open(fixture.pool, backend);
    const int peer = listener.accept();
    const int kept_peer = listener.accept();
    fixture.pool.give_back(std::move(connection), BackendPool::kIdleMax);
    fixture.pool.give_back(std::move(kept), BackendPool::kIdleMax);
    EXPECT_EQ(fixture.pool.idle_count(), 2u) << what;
    if (*what == 'f') close(peer);
    if (*what == 'b') send_text(peer, "HTTP/1.1 408 Request Timeout\r\n\r\n");
    if (*what == 'r') reset(peer);
    while (fixture.pool.idle_count() == 2) co_await NextRound(loop);
    EXPECT_EQ(fixture.pool.idle_count(), 1u) << what;
    auto left = fixture.pool.take_idle(backend);
    send_text(kept_peer, "alive");
    EXPECT_TRUE((co_await left->socket.readable(soon())).ok());
    if (*what == 'b') close(peer);
    close(kept_peer);
  }
}

TEST(BackendPool, DropsWhatTheBackendEndsOrSpeaksOn) {
  run_on_loop(idle_events);
}

Task<void> taken_ones_are_not_watched(Loop& loop) {
  Fixture fixture(loop);
  const TestListener listener;
  const Backend backend = backend_at(listener.port());
  auto connection = co_await open(fixture.pool, backend);
  const int peer = listener.accept();
  fixture.pool.give_back(std::move(connection), BackendPool::kIdleMax);
  connection = fixture.pool.take_idle(backend);
  send_text(peer, "reply");
  for (int i = 0; i < 3; ++i) co_await NextRound(loop);
  std::array<char, 8> buffer;
  const IoResult read = co_await connection->socket.read_some(buffer.data(), 8, soon());
  EXPECT_EQ(read.bytes, 5u);
  close(peer);
}

TEST(BackendPool, LeavesATakenOneAlone) {
  run_on_loop(taken_ones_are_not_watched);
}

Task<void> not_clean(Loop& loop) {
  Fixture fixture(loop);
  const TestListener listener;
  const Backend backend = backend_at(listener.port());
  for (const char* what : {"bytes left over", "bytes unread", "closed"}) {
    auto connection = co_await open(fixture.pool, backend);
    const int peer = listener.accept();
    if (*what == 'c') {
      close(peer);
    } else {
      send_text(peer, "excess");
    }
    co_await connection->socket.readable(soon());
    if (std::string_view(what) == "bytes left over") {
      connection->input.make_room(kBlockBytes);
      const IoResult read = co_await connection->socket.read_some(connection->input.tail(),
                                                                  connection->input.room(), soon());
      connection->input.append(read.bytes);
    }
    fixture.pool.give_back(std::move(connection), BackendPool::kIdleMax);
    EXPECT_EQ(fixture.pool.idle_count(), 0u) << what;
    if (*what != 'c') close(peer);
  }
}

TEST(BackendPool, KeepsNoneThatIsNotQuiet) {
  run_on_loop(not_clean);
}

Task<void> idle_limit(Loop& loop) {
  Fixture fixture(loop, resolve_now, Milliseconds(1));
  const TestListener listener;
  const Backend backend = backend_at(listener.port());
  fixture.pool.give_back(co_await open(fixture.pool, backend), Milliseconds(0));
  EXPECT_EQ(fixture.pool.take_idle(backend), nullptr);  // before any sweep
  auto lasting = co_await open(fixture.pool, backend);
  auto passing = co_await open(fixture.pool, backend);
  BackendConnection* const lasting_one = lasting.get();
  fixture.pool.give_back(std::move(lasting), std::chrono::hours(1));
  fixture.pool.give_back(std::move(passing), Milliseconds(3));
  while (fixture.pool.idle_count() > 1) co_await NextRound(loop);
  EXPECT_EQ(fixture.pool.take_idle(backend).get(), lasting_one);
  // The sweep has gone on; it ends with the last one and begins again with the next.
  fixture.pool.give_back(co_await open(fixture.pool, backend), Milliseconds(2));
  while (fixture.pool.idle_count() > 0) co_await NextRound(loop);
  for (int i = 0; i < 2; ++i) co_await Sleep(loop, loop.now() + Milliseconds(2));
  fixture.pool.give_back(co_await open(fixture.pool, backend), Milliseconds(2));
  while (fixture.pool.idle_count() > 0) co_await NextRound(loop);
}

TEST(BackendPool, ClosesWhatHasBeenIdleTooLong) {
  run_on_loop(idle_limit);
}

Task<void> bound(Loop& loop) {
  Fixture fixture(loop);
  const TestListener listener(2000);
  const Backend backend = backend_at(listener.port());
  std::vector<std::unique_ptr<BackendConnection>> all;
  for (size_t i = 0; i < BackendPool::kIdlePerOriginMax + 2; ++i) {
    all.push_back(co_await open(fixture.pool, backend));
    if (all.back() == nullptr) co_return;
  }
  for (auto& connection : all) {
    fixture.pool.give_back(std::move(connection), BackendPool::kIdleMax);
  }
  EXPECT_EQ(fixture.pool.idle_count(), BackendPool::kIdlePerOriginMax);
}

TEST(BackendPool, KeepsNoMoreThanItsBound) {
  run_on_loop(bound);
}

Task<void> refused(Loop& loop) {
  Fixture fixture(loop);
  TestListener listener;
  const Backend backend = backend_at(listener.port());
  listener.close();
  const Connected connected = co_await fixture.pool.connect(backend, soon());
  EXPECT_EQ(connected.connection, nullptr);
  EXPECT_EQ(connected.error, "Connection refused");
  EXPECT_FALSE(connected.is_timeout);
}

TEST(BackendPool, ConnectRefused) {
  run_on_loop(refused);
}

// A listening socket whose backlog is full: connecting to it hangs.
class FullListener {
 public:
  FullListener() : listener_(0) {
    for (int& fd : fillers_) {
      fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
      connect(fd, listener_.address(), sizeof(sockaddr_in));
    }
  }
  ~FullListener() {
    for (const int fd : fillers_) close(fd);
  }
  uint16_t port() const { return listener_.port(); }

 private:
  TestListener listener_;
  std::array<int, 4> fillers_{};
};

Task<void> hangs(Loop& loop) {
  Fixture fixture(loop);
  const FullListener listener;
  const Backend backend = backend_at(listener.port());
  const MonotonicTime deadline = loop.now() + Milliseconds(5);
  const Connected connected = co_await fixture.pool.connect(backend, deadline);
  EXPECT_EQ(connected.connection, nullptr);
  EXPECT_EQ(connected.error, "timed out");
  EXPECT_TRUE(connected.is_timeout);
  EXPECT_GE(loop.now(), deadline);
}

TEST(BackendPool, ConnectTimesOut) {
  run_on_loop(hangs);
}

Task<void> no_authorities(Loop& loop) {
  Fixture fixture(loop);
  const TestListener listener;
  Backend backend = backend_at(listener.port());
  backend.is_https = true;
  backend.ca_file = "no/such/file.pem";
  for (int i = 0; i < 2; ++i) {
    const Connected connected = co_await fixture.pool.connect(backend, soon());
    EXPECT_EQ(connected.connection, nullptr);
    EXPECT_NE(connected.error, "");
  }
}

TEST(BackendPool, UnreadableAuthoritiesAreAnError) {
  run_on_loop(no_authorities);
}

// What the next look-ups of a name find. Set before, read by the resolver's threads while a test
// waits.
std::vector<Address> found_addresses;
std::atomic<size_t> look_ups = 0;

std::vector<Address> scripted(const std::string&, uint16_t, std::string& error) {
  ++look_ups;
  if (found_addresses.empty()) error = "name server failure";
  return found_addresses;
}

Address address_of(uint16_t port) {
  return *Address::from_literal("127.0.0.1", port);
}

Task<void> several_addresses(Loop& loop) {
  Fixture fixture(loop, scripted);
  TestListener closed;
  const TestListener listener;
  const FullListener full;
  closed.close();
  found_addresses = {address_of(closed.port()), address_of(full.port()),
                     address_of(listener.port())};
  look_ups = 0;
  const Backend backend = backend_at(80, "name.example");
  const MonotonicTime begun = loop.now();
  const MonotonicTime deadline = begun + Milliseconds(160);
  Connected connected = co_await fixture.pool.connect(backend, deadline);
  EXPECT_NE(connected.connection, nullptr) << connected.error;
  EXPECT_GE(loop.now() - begun, Milliseconds(79));  // the one that hangs had its share of the time
  EXPECT_LT(loop.now(), deadline);
  close(listener.accept());

  // The one that answered comes first from now on, and the name is not asked for again.
  const MonotonicTime again = loop.now();
  connected = co_await fixture.pool.connect(backend, soon());
  EXPECT_NE(connected.connection, nullptr) << connected.error;
  EXPECT_LT(loop.now() - again, kPatience / 4);
  EXPECT_EQ(look_ups, 1u);
}

TEST(BackendPool, TriesEachAddress) {
  run_on_loop(several_addresses);
}

Task<void> moved(Loop& loop) {
  Fixture fixture(loop, scripted);
  TestListener before;
  const TestListener after;
  const Backend backend = backend_at(80, "name.example");
  look_ups = 0;
  found_addresses = {address_of(before.port())};
  EXPECT_NE(co_await open(fixture.pool, backend), nullptr);
  before.close();
  found_addresses = {address_of(after.port())};
  Connected connected = co_await fixture.pool.connect(backend, soon());
  EXPECT_EQ(connected.connection, nullptr);
  EXPECT_EQ(look_ups, 1u);
  EXPECT_NE(co_await open(fixture.pool, backend), nullptr);  // asked again after the failure
  EXPECT_EQ(look_ups, 2u);
}

TEST(BackendPool, AsksForTheNameAgainAfterAFailure) {
  run_on_loop(moved);
}

Task<void> name_server_down(Loop& loop) {
  Fixture fixture(loop, scripted);
  const Backend backend = backend_at(80, "name.example");
  found_addresses.clear();
  Connected connected = co_await fixture.pool.connect(backend, soon());
  EXPECT_EQ(connected.error, "name server failure");

  auto listener = std::make_unique<TestListener>();
  const uint16_t port = listener->port();
  found_addresses = {address_of(port)};
  EXPECT_NE(co_await open(fixture.pool, backend), nullptr);
  listener->close();
  connected = co_await fixture.pool.connect(backend, soon());  // the backend is down for a moment
  EXPECT_EQ(connected.error, "Connection refused");
  found_addresses.clear();  // and then the name server
  connected = co_await fixture.pool.connect(backend, soon());
  EXPECT_EQ(connected.error, "Connection refused");  // the old address was tried
}

TEST(BackendPool, KeepsItsAddressesWhileTheNameServerFails) {
  run_on_loop(name_server_down);
}

// A name server that answers only when it is let to.
std::mutex name_server;
std::vector<Address> held_up(const std::string&, uint16_t, std::string&) {
  const std::lock_guard lock(name_server);
  std::vector<Address> found = found_addresses;
  ++look_ups;  // the test may go on
  return found;
}

Task<void> name_server_hangs(Loop& loop) {
  Fixture fixture(loop, held_up);
  const Backend backend = backend_at(80, "name.example");
  auto listener = std::make_unique<TestListener>();
  const uint16_t port = listener->port();
  found_addresses = {address_of(port)};
  look_ups = 0;
  EXPECT_NE(co_await open(fixture.pool, backend), nullptr);
  listener->close();
  Connected connected = co_await fixture.pool.connect(backend, soon());
  EXPECT_EQ(connected.error, "Connection refused");
  const TestListener again(64, 0, port);  // the backend is back
  std::unique_lock hanging(name_server);
  const auto patience = Milliseconds(200);
  for (int i = 0; i < 3; ++i) {
    const MonotonicTime begun = loop.now();
    connected = co_await fixture.pool.connect(backend, begun + patience);
    EXPECT_NE(connected.connection, nullptr) << connected.error;
    // Addresses that failed are not taken again before others were waited for; those that serve
    // are.
    EXPECT_EQ(loop.now() - begun >= patience / BackendPool::kNameShare, i == 0) << i;
  }
  hanging.unlock();
  while (look_ups < 2) co_await NextRound(loop);
}

TEST(BackendPool, KnownAddressesServeWhileTheNameServerHangs) {
  run_on_loop(name_server_hangs);
}

Task<void> connect_and_count(BackendPool& pool, const Backend& backend, size_t& connected) {
  const auto connection = co_await open(pool, backend);
  connected += connection != nullptr ? 1 : 0;
}

Task<void> many_at_once(Loop& loop) {
  Fixture fixture(loop, held_up);
  const TestListener listener(1000);
  const Backend backend = backend_at(80, "name.example");
  found_addresses = {address_of(listener.port())};
  look_ups = 0;
  size_t connected = 0;
  std::unique_lock hanging(name_server);
  for (int i = 0; i < 500; ++i) spawn(connect_and_count(fixture.pool, backend, connected));
  hanging.unlock();
  while (connected < 500) co_await NextRound(loop);
  EXPECT_EQ(look_ups, 1u);
}

TEST(BackendPool, ConnectionsAtOnceShareOneLookUp) {
  run_on_loop(many_at_once);
}

Task<void> connect_until_interrupted(BackendPool& pool, const Backend& backend,
                                     Interrupt& interrupt, bool& is_done) {
  const Connected connected = co_await pool.connect(backend, soon(), &interrupt);
  EXPECT_EQ(connected.connection, nullptr);
  is_done = true;
}

Task<void> interrupts(Loop& loop) {
  Fixture fixture(loop, held_up);
  const FullListener full;
  const TestListener silent;
  look_ups = 0;
  std::unique_lock hanging(name_server);
  Backend names = backend_at(80, "name.example");
  Backend connects = backend_at(full.port());
  Backend shakes_hands = backend_at(silent.port());
  shakes_hands.is_https = true;
  for (const Backend& backend : {names, connects, shakes_hands}) {
    Interrupt interrupt;
    bool is_done = false;
    spawn(connect_until_interrupted(fixture.pool, backend, interrupt, is_done));
    for (int i = 0; i < 3; ++i) co_await NextRound(loop);
    EXPECT_FALSE(is_done);
    interrupt.fire();
    EXPECT_TRUE(is_done);
    is_done = false;
    spawn(connect_until_interrupted(fixture.pool, backend, interrupt, is_done));
    EXPECT_TRUE(is_done);  // at once
  }
  hanging.unlock();
  while (look_ups == 0) co_await NextRound(loop);
}

TEST(BackendPool, EveryWaitIsInterrupted) {
  run_on_loop(interrupts);
}

Task<void> news_since_the_last_round(Loop& loop) {
  Fixture fixture(loop);
  const TestListener listener;
  const Backend backend = backend_at(listener.port());
  for (const Milliseconds idle : {Milliseconds{0}, BackendPool::kTrusted}) {
    for (const char* what : {"fin", "byte"}) {
      auto connection = co_await open(fixture.pool, backend);
      const int peer = listener.accept();
      fixture.pool.give_back(std::move(connection), BackendPool::kIdleMax);
      co_await Sleep(loop, loop.now() + idle);
      if (*what == 'f') {
        close(peer);
      } else {
        send_text(peer, "HTTP/1.1 408 Request Timeout\r\n\r\n");
      }
      EXPECT_EQ(fixture.pool.take_idle(backend), nullptr) << what;  // no epoll_wait in between
      if (*what == 'b') close(peer);
    }
  }
}

TEST(BackendPool, LooksBeforeItReuses) {
  run_on_loop(news_since_the_last_round);
}

}  // namespace
}  // namespace llmproxy::net
