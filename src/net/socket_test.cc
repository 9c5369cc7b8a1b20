// Sockets over TCP on the loopback: partial writes, deadlines, cancelling, and every way a peer may
// end.
#include "net/socket.h"

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include <array>
#include <csignal>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "net/test_loop.h"

namespace llmproxy::net {
namespace {

constexpr Milliseconds kStall = kPatience;

// A socket, and the descriptor at its other end.
struct Ends {
  explicit Ends(Loop& loop, TcpOptions options = {}) {
    const TcpPair pair(options);
    socket = std::make_unique<Socket>(loop, pair.ours);
    peer = pair.theirs;
  }
  ~Ends() { close_peer(); }
  Ends(const Ends&) = delete;
  Ends& operator=(const Ends&) = delete;
  void close_peer() {
    if (peer >= 0) close(std::exchange(peer, -1));
  }
  void reset_peer() { reset(std::exchange(peer, -1)); }

  std::unique_ptr<Socket> socket;
  int peer = -1;
};

class Later final : public Posted {
 public:
  Later(Loop& loop, std::function<void()> body) : body_(std::move(body)) { loop.post(*this); }
  void run() override { body_(); }

 private:
  std::function<void()> body_;
};

// What the kernel has for the descriptor.
size_t bytes_waiting(int fd) {
  int bytes = 0;
  ioctl(fd, FIONREAD, &bytes);
  return static_cast<size_t>(bytes);
}

Task<IoResult> write_text(Socket& socket, std::string text) {
  iovec part{text.data(), text.size()};
  co_return co_await socket.write_all({&part, 1}, kStall);
}

Task<IoResult> read_text(Socket& socket, std::string& text, size_t size = 4096) {
  std::string buffer(size, '\0');
  const IoResult result = co_await socket.read_some(buffer.data(), size, soon());
  text = buffer.substr(0, result.bytes);
  co_return result;
}

// All until the end; how it ended.
Task<IoStatus> read_all(Socket& socket, std::string& text, size_t size) {
  for (;;) {
    std::string part;
    const IoResult result = co_await read_text(socket, part, size);
    text += part;
    if (!result.ok()) co_return result.status;
  }
}

Task<void> read_and_write(Loop& loop) {
  Ends ends(loop);
  std::string text;
  send_text(ends.peer, "question");
  EXPECT_TRUE((co_await read_text(*ends.socket, text)).ok());
  EXPECT_EQ(text, "question");
  const IoResult written = co_await write_text(*ends.socket, "an answer");
  EXPECT_TRUE(written.ok());
  EXPECT_EQ(written.bytes, 9u);
  std::array<char, 64> got;
  EXPECT_EQ(recv(ends.peer, got.data(), got.size(), 0), 9);
  const Later later(loop, [&] { send_text(ends.peer, "second"); });
  EXPECT_TRUE((co_await read_text(*ends.socket, text)).ok());
  EXPECT_EQ(text, "second");
}

TEST(Socket, ReadsAndWrites) {
  run_on_loop(read_and_write);
}

Task<void> read_into(Socket& socket, std::string& all, IoStatus& status) {
  status = co_await read_all(socket, all, 1000);
}

// More parts than one sendmsg takes, empty ones among them, through small buffers.
Task<void> write_in_pieces(Loop& loop) {
  Ends ends(loop, {.send_bytes = 4096, .receive_bytes = 4096});
  std::vector<std::string> texts;
  for (size_t i = 0; i < 1500; ++i) {
    texts.push_back(std::string(i % 5 == 0 ? 0 : i * 17 % 3000, static_cast<char>('a' + i % 26)));
  }
  std::string wanted;
  std::vector<iovec> parts;
  for (std::string& text : texts) {
    wanted += text;
    parts.push_back({text.data(), text.size()});
  }
  Socket reader(loop, std::exchange(ends.peer, -1));
  std::string all;
  IoStatus status = IoStatus::kOk;
  spawn(read_into(reader, all, status));
  const IoResult written = co_await ends.socket->write_all(parts, kStall);
  EXPECT_TRUE(written.ok());
  EXPECT_EQ(written.bytes, wanted.size());
  ends.socket.reset();
  while (status == IoStatus::kOk) co_await NextRound(loop);
  EXPECT_EQ(status, IoStatus::kEnd);
  EXPECT_TRUE(all == wanted);
}

TEST(Socket, WritesAllThroughSmallBuffers) {
  run_on_loop(write_in_pieces);
}

Task<void> write_nothing(Loop& loop) {
  Ends ends(loop);
  std::array<iovec, 2> parts{};
  const IoResult result = co_await ends.socket->write_all(parts, kStall);
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.bytes, 0u);
  EXPECT_TRUE((co_await ends.socket->write_all({}, kStall)).ok());
}

TEST(Socket, WritesNothingAtOnce) {
  run_on_loop(write_nothing);
}

Task<void> stall(Loop& loop) {
  Ends ends(loop, {.send_bytes = 4096, .receive_bytes = 4096});
  std::string text(1 << 20, 'x');
  iovec part{text.data(), text.size()};
  const IoResult result = co_await ends.socket->write_all({&part, 1}, Milliseconds(2));
  EXPECT_EQ(result.status, IoStatus::kTimeout);
  EXPECT_GT(result.bytes, 0u);
  EXPECT_LT(result.bytes, text.size());
}

TEST(Socket, WriteTimesOutWhenThePeerTakesNothing) {
  run_on_loop(stall);
}

// A peer that takes a little now and then, which moves the stall's deadline each time.
class Sipper final : Timer {
 public:
  Sipper(Loop& loop, int fd) : Timer(loop), loop_(loop), fd_(fd) { arm(loop.now()); }

 private:
  void on_deadline() override {
    std::array<char, 4096> buffer;
    recv(fd_, buffer.data(), buffer.size(), 0);
    arm(loop_.now() + Milliseconds(1));
  }
  Loop& loop_;
  int fd_;
};

Task<void> slow_reader(Loop& loop) {
  Ends ends(loop, {.send_bytes = 4096, .receive_bytes = 4096});
  const Sipper sipper(loop, ends.peer);
  std::string text(64 << 20, 'x');
  for (const bool is_fast_enough : {true, false}) {
    const size_t bytes = is_fast_enough ? 1 << 18 : text.size();
    const size_t rate_min = is_fast_enough ? 1 : size_t{1} << 40;
    iovec part{text.data(), bytes};
    const IoResult result =
        co_await ends.socket->write_all({&part, 1}, kStall, rate_min, Milliseconds(5));
    EXPECT_EQ(result.status, is_fast_enough ? IoStatus::kOk : IoStatus::kTimeout);
    EXPECT_GT(result.bytes, 0u);
  }
}

TEST(Socket, WriteTimesOutWhenThePeerTakesTooLittle) {
  run_on_loop(slow_reader);
}

TEST(Pace, IsOfEachWindow) {
  using std::chrono::seconds;
  const MonotonicTime begin = monotonic_now();
  Pace pace(100, begin, seconds(10));
  EXPECT_TRUE(pace.keeps(0, begin + seconds(9)));
  EXPECT_TRUE(pace.keeps(100'000, begin + seconds(10)));  // what it brought early
  EXPECT_TRUE(pace.keeps(900, begin + seconds(19)));
  EXPECT_TRUE(pace.keeps(100, begin + seconds(20)));
  EXPECT_TRUE(pace.keeps(1, begin + seconds(29)));
  EXPECT_FALSE(pace.keeps(998, begin + seconds(30)));  // does not help it later
  Pace off(0, begin, seconds(10));
  EXPECT_TRUE(off.keeps(0, begin + seconds(1000)));
}

// What the peer says while it takes nothing ends the wait; the rest may follow.
Task<void> answered(Loop& loop) {
  Ends ends(loop, {.send_bytes = 4096, .receive_bytes = 4096});
  std::string head = "head", body(1 << 20, 'b'), tail = "tail";
  std::array<iovec, 4> parts{iovec{head.data(), head.size()}, iovec{}, {}, {}};
  parts[2] = {body.data(), body.size()};
  parts[3] = {tail.data(), tail.size()};
  const Later later(loop, [&] { send_text(ends.peer, "100"); });
  const IoResult cut = co_await ends.socket->write_unless_answered(parts, kStall);
  EXPECT_EQ(cut.status, IoStatus::kAnswered);
  EXPECT_GT(cut.bytes, head.size());
  std::string answer;
  EXPECT_TRUE((co_await read_text(*ends.socket, answer)).ok());
  EXPECT_EQ(answer, "100");

  Socket reader(loop, std::exchange(ends.peer, -1));
  std::string all;
  IoStatus status = IoStatus::kOk;
  spawn(read_into(reader, all, status));
  const IoResult rest = co_await ends.socket->write_unless_answered(parts, kStall);
  EXPECT_TRUE(rest.ok());
  ends.socket.reset();
  while (status == IoStatus::kOk) co_await NextRound(loop);
  EXPECT_TRUE(all == head + body + tail);
}

TEST(Socket, AnAnswerEndsAWriteThatWaits) {
  run_on_loop(answered);
}

// A wait that cannot begin leaves nobody waiting.
Task<void> out_of_memory(Loop& loop) {
  Ends ends(loop);
  std::string text;
  std::string buffer(16, 0);
  bool has_thrown = false;
  allocation_fault.arm(1);  // the loop's list of timers
  try {
    co_await ends.socket->read_some(buffer.data(), buffer.size(), soon());
  } catch (const std::bad_alloc&) {
    has_thrown = true;
  }
  EXPECT_TRUE(has_thrown);
  const Later later(loop, [&] { send_text(ends.peer, "text"); });
  EXPECT_TRUE((co_await read_text(*ends.socket, text)).ok());
  EXPECT_EQ(text, "text");
}

TEST(Socket, AWaitThatCannotBeginIsNone) {
  run_on_loop(out_of_memory);
}

Task<void> deadlines(Loop& loop) {
  Ends ends(loop);
  std::array<char, 16> buffer;
  const MonotonicTime past = loop.now() - std::chrono::seconds(1);
  for (const MonotonicTime deadline : {past, loop.now() + Milliseconds(1)}) {
    EXPECT_EQ((co_await ends.socket->read_some(buffer.data(), buffer.size(), deadline)).status,
              IoStatus::kTimeout);
    EXPECT_EQ((co_await ends.socket->readable(deadline)).status, IoStatus::kTimeout);
  }
  send_text(ends.peer, "late");
  EXPECT_TRUE((co_await ends.socket->readable(soon())).ok());
  // What is there is read, whatever the deadline says.
  const IoResult read = co_await ends.socket->read_some(buffer.data(), buffer.size(), past);
  EXPECT_TRUE(read.ok());
  EXPECT_EQ(read.bytes, 4u);
}

TEST(Socket, Deadlines) {
  run_on_loop(deadlines);
}

Task<void> read_status(Socket& socket, std::optional<IoStatus>& status) {
  std::array<char, 16> buffer;
  status = (co_await socket.read_some(buffer.data(), buffer.size(), soon())).status;
}

Task<void> interrupted(Loop& loop) {
  Interrupt interrupt;
  for (const bool is_fired_before : {false, true}) {
    Ends ends(loop);
    const Interrupt::Guard guard(&interrupt, *ends.socket);
    std::optional<IoStatus> status;
    spawn(read_status(*ends.socket, status));
    EXPECT_EQ(status.has_value(), is_fired_before);
    if (!is_fired_before) interrupt.fire();
    EXPECT_EQ(status, IoStatus::kCancelled);
  }
  interrupt.fire();  // what it was told of is gone
  co_return;
}

TEST(Socket, Interrupted) {
  run_on_loop(interrupted);
}

Task<void> cancelling(Loop& loop) {
  Ends ends(loop, {.send_bytes = 4096, .receive_bytes = 4096});
  std::optional<IoStatus> status;
  spawn(read_status(*ends.socket, status));
  EXPECT_FALSE(ends.socket->is_reset());
  EXPECT_FALSE(status.has_value());
  ends.socket->cancel();
  EXPECT_EQ(status, IoStatus::kCancelled);

  status.reset();
  spawn(read_status(*ends.socket, status));
  EXPECT_EQ(status, IoStatus::kCancelled);
  EXPECT_EQ((co_await ends.socket->readable(soon())).status, IoStatus::kCancelled);

  send_text(ends.peer, "still read");
  co_await NextRound(loop);
  std::string text;
  EXPECT_TRUE((co_await read_text(*ends.socket, text)).ok());
  EXPECT_EQ(text, "still read");
  EXPECT_TRUE((co_await write_text(*ends.socket, "still written")).ok());
  const IoResult much = co_await write_text(*ends.socket, std::string(1 << 20, 'x'));
  EXPECT_EQ(much.status, IoStatus::kCancelled);
  EXPECT_GT(much.bytes, 0u);
}

TEST(Socket, Cancel) {
  run_on_loop(cancelling);
}

Task<void> destroy_when_cancelled(std::unique_ptr<Socket>& socket, bool& is_done) {
  std::array<char, 16> buffer;
  co_await socket->read_some(buffer.data(), buffer.size(), soon());
  socket.reset();
  is_done = true;
}

Task<void> cancel_destroys(Loop& loop) {
  for (const bool is_by_event : {false, true}) {
    Ends ends(loop);
    bool is_done = false;
    spawn(destroy_when_cancelled(ends.socket, is_done));
    if (is_by_event) {
      send_text(ends.peer, "x");
      while (!is_done) co_await NextRound(loop);
    } else {
      ends.socket->cancel();
    }
    EXPECT_TRUE(is_done);
    EXPECT_EQ(ends.socket, nullptr);
  }
}

TEST(Socket, MayBeDestroyedByWhoWaited) {
  run_on_loop(cancel_destroys);
}

// Data and then FIN: whenever each arrives and however it is read, all of it, then the end.
struct FinCase {
  size_t bytes;
  size_t read_size;
  bool is_fin_with_data;  // else the data is read before the FIN is sent
  bool is_waiting;        // the read waits before anything arrives
};

Task<void> read_to_fin(Loop& loop, FinCase c) {
  Ends ends(loop);
  const std::string data(c.bytes, 'd');
  const auto send_now = [&] {
    if (c.bytes > 0) send_text(ends.peer, data);
    if (c.is_fin_with_data) ends.close_peer();
  };
  std::optional<Later> later;
  if (c.is_waiting) {
    later.emplace(loop, send_now);
  } else {
    send_now();
    co_await NextRound(loop);
  }
  std::string all;
  while (all.size() < c.bytes) {
    std::string part;
    EXPECT_TRUE((co_await read_text(*ends.socket, part, c.read_size)).ok());
    all += part;
  }
  if (!c.is_fin_with_data) {
    co_await NextRound(loop);
    ends.close_peer();
  }
  for (int i = 0; i < 2; ++i) {  // the end stays the end
    std::string rest;
    const IoResult end = co_await read_text(*ends.socket, rest, c.read_size);
    EXPECT_EQ(end.status, IoStatus::kEnd);
    EXPECT_EQ(end.bytes, 0u);
  }
  EXPECT_EQ(all, data);
  EXPECT_FALSE(ends.socket->is_reset());
  EXPECT_FALSE(ends.socket->is_quiet());
}

TEST(Socket, FinAfterData) {
  for (const size_t bytes : {0u, 1u, 10u, 20u, 1000u}) {
    for (const size_t read_size : {1u, 10u, 20u, 4096u}) {
      for (const bool is_fin_with_data : {false, true}) {
        for (const bool is_waiting : {false, true}) {
          SCOPED_TRACE(testing::Message() << bytes << " by " << read_size << " fin with data "
                                          << is_fin_with_data << " waiting " << is_waiting);
          run_on_loop(read_to_fin, FinCase{bytes, read_size, is_fin_with_data, is_waiting});
        }
      }
    }
  }
}

Task<void> reset_while_reading(Loop& loop) {
  Ends ends(loop);
  const Later later(loop, [&] { ends.reset_peer(); });
  std::string text;
  EXPECT_EQ((co_await read_text(*ends.socket, text)).status, IoStatus::kReset);
  EXPECT_TRUE(ends.socket->is_reset());
  EXPECT_FALSE(ends.socket->is_quiet());
  EXPECT_EQ((co_await write_text(*ends.socket, "x")).status, IoStatus::kReset);
  EXPECT_EQ((co_await read_text(*ends.socket, text)).status, IoStatus::kReset);
}

Task<void> reset_after_data(Loop& loop) {
  Ends ends(loop);
  send_text(ends.peer, "some data");
  ends.reset_peer();
  std::string text;
  const IoStatus status = co_await read_all(*ends.socket, text, 4);
  EXPECT_EQ(status, IoStatus::kReset);
  EXPECT_TRUE(ends.socket->is_reset());
}

// The write is told of the RST and thereby takes the error from the kernel; for the read that comes
// after it, recv(2) returns 0, which must not pass for the end of a reply.
Task<void> reset_seen_by_the_write_first(Loop& loop) {
  Ends ends(loop);
  ends.reset_peer();
  EXPECT_EQ((co_await write_text(*ends.socket, "x")).status, IoStatus::kReset);
  std::string text;
  EXPECT_EQ((co_await read_text(*ends.socket, text)).status, IoStatus::kReset);
}

Task<void> reset_while_writing(Loop& loop) {
  Ends ends(loop, {.send_bytes = 4096, .receive_bytes = 4096});
  const Later later(loop, [&] { ends.reset_peer(); });
  const IoResult result = co_await write_text(*ends.socket, std::string(1 << 20, 'x'));
  EXPECT_EQ(result.status, IoStatus::kReset);
  EXPECT_GT(result.bytes, 0u);
}

// The peer sent its whole answer and FIN, and answers what we send after that with RST: its answer
// is whole.
Task<void> end_then_reset(Loop& loop) {
  Ends ends(loop);
  send_text(ends.peer, "whole");
  ends.close_peer();
  for (int i = 0; i < 3; ++i) co_await write_text(*ends.socket, "too late");  // ends with EPIPE
  std::string text;
  EXPECT_EQ(co_await read_all(*ends.socket, text, 100), IoStatus::kEnd);
  EXPECT_EQ(text, "whole");
}

TEST(Socket, ResetWhileReading) {
  run_on_loop(reset_while_reading);
}
TEST(Socket, ResetAfterData) {
  run_on_loop(reset_after_data);
}
TEST(Socket, ResetSeenByTheWriteFirst) {
  run_on_loop(reset_seen_by_the_write_first);
}
TEST(Socket, ResetWhileWriting) {
  run_on_loop(reset_while_writing);
}
TEST(Socket, EndThenReset) {
  run_on_loop(end_then_reset);
}

// We stop sending, the peer answers all the same, then ends as well.
Task<void> half_close(Loop& loop) {
  Ends ends(loop);
  Socket other(loop, std::exchange(ends.peer, -1));
  EXPECT_TRUE((co_await write_text(*ends.socket, "last words")).ok());
  ends.socket->shutdown_write();
  std::string text;
  EXPECT_EQ(co_await read_all(other, text, 4), IoStatus::kEnd);
  EXPECT_EQ(text, "last words");
  EXPECT_FALSE(other.is_reset());  // a FIN alone is no abort
  EXPECT_TRUE((co_await write_text(other, "answer")).ok());
  EXPECT_TRUE((co_await read_text(*ends.socket, text)).ok());
  EXPECT_EQ(text, "answer");
  const Later later(loop, [&] { other.shutdown_write(); });
  EXPECT_EQ((co_await read_text(*ends.socket, text)).status, IoStatus::kEnd);
  EXPECT_FALSE(ends.socket->is_reset());
}

TEST(Socket, HalfClose) {
  run_on_loop(half_close);
}

class DestroyingWatcher final : public Socket::IdleWatcher {
 public:
  explicit DestroyingWatcher(std::unique_ptr<Socket>& socket) : socket_(socket) {
    socket_->set_idle_watcher(this);
  }
  void on_idle_event(Socket&) override {
    ++calls;
    socket_.reset();
  }
  int calls = 0;

 private:
  std::unique_ptr<Socket>& socket_;
};

Task<void> idle_events(Loop& loop) {
  for (const char* what : {"byte", "fin", "reset"}) {
    Ends ends(loop);
    DestroyingWatcher watcher(ends.socket);
    for (int i = 0; i < 3; ++i) co_await NextRound(loop);
    EXPECT_EQ(watcher.calls, 0) << what;  // that it is writable is no news
    if (*what == 'b') send_text(ends.peer, "x");
    if (*what == 'f') ends.close_peer();
    if (*what == 'r') ends.reset_peer();
    while (watcher.calls == 0) co_await NextRound(loop);
    EXPECT_EQ(ends.socket, nullptr) << what;
    co_await NextRound(loop);
    EXPECT_EQ(watcher.calls, 1) << what;
  }
}

TEST(Socket, IdleWatcherMayDestroyIt) {
  run_on_loop(idle_events);
}

// Of sockets whose events come in the same round, one destroys the others.
class DestroyingAll final : public Socket::IdleWatcher {
 public:
  void on_idle_event(Socket&) override {
    ++calls;
    sockets.clear();
  }
  std::vector<std::unique_ptr<Socket>> sockets;
  int calls = 0;
};

Task<void> destroyed_in_the_round_of_its_event(Loop& loop) {
  DestroyingAll all;
  std::vector<int> peers;
  for (int i = 0; i < 10; ++i) {
    const TcpPair pair;
    peers.push_back(pair.theirs);
    all.sockets.push_back(std::make_unique<Socket>(loop, pair.ours));
    all.sockets.back()->set_idle_watcher(&all);
  }
  for (const int peer : peers) close(peer);
  while (all.calls == 0) co_await NextRound(loop);
  co_await NextRound(loop);
  EXPECT_EQ(all.calls, 1);
}

TEST(Socket, MayBeDestroyedInTheRoundOfItsEvent) {
  run_on_loop(destroyed_in_the_round_of_its_event);
}

Task<void> quiet(Loop& loop) {
  Ends ends(loop);
  Socket& socket = *ends.socket;
  co_await NextRound(loop);
  EXPECT_TRUE(socket.is_quiet());
  std::string text;
  send_text(ends.peer, "1234");
  co_await read_text(socket, text, 100);
  EXPECT_TRUE(socket.is_quiet());  // drained: less came than was asked for
  send_text(ends.peer, "1234");
  co_await read_text(socket, text, 4);
  EXPECT_EQ(text, "1234");
  EXPECT_TRUE(socket.is_quiet());  // drained to the byte
  send_text(ends.peer, "12345");
  co_await read_text(socket, text, 4);
  EXPECT_FALSE(socket.is_quiet());
  co_await read_text(socket, text, 4);
  EXPECT_TRUE(socket.is_quiet());
  send_text(ends.peer, "x");
  while (bytes_waiting(socket.fd()) == 0) co_await NextRound(loop);
  co_await NextRound(loop);
  EXPECT_FALSE(socket.is_quiet());
  EXPECT_FALSE(socket.is_quiet());  // looking takes nothing away
  co_await read_text(socket, text, 4);
  EXPECT_EQ(text, "x");
}

TEST(Socket, IsQuiet) {
  run_on_loop(quiet);
}

Task<void> steady(Loop& loop) {
  Ends ends(loop);
  Socket other(loop, std::exchange(ends.peer, -1));
  std::array<char, 64> to{}, from{};
  size_t before = 0;
  for (int i = 0; i < 200; ++i) {
    if (i == 10) before = allocations;
    iovec part{to.data(), to.size()};
    co_await ends.socket->write_all({&part, 1}, kStall);
    co_await other.readable(soon());
    const IoResult read = co_await other.read_some(from.data(), from.size(), soon());
    EXPECT_EQ(read.bytes, to.size());
    // Waits, and times out.
    co_await other.read_some(from.data(), from.size(), loop.now());
  }
  EXPECT_EQ(allocations, before);
}

TEST(Socket, AllocatesNothingPerOperation) {
  run_on_loop(steady);
}

int begin_connect(const TestListener& listener) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int result = connect(fd, listener.address(), sizeof(sockaddr_in));
  EXPECT_TRUE(result == 0 || errno == EINPROGRESS || errno == ECONNREFUSED);
  return fd;
}

Task<void> connecting(Loop& loop) {
  TestListener listener;
  {
    Socket socket(loop, begin_connect(listener));
    EXPECT_TRUE((co_await socket.connected(soon())).ok());
    const int peer = listener.accept();
    std::string text;
    send_text(peer, "hello");
    EXPECT_TRUE((co_await read_text(socket, text)).ok());
    EXPECT_EQ(text, "hello");
    close(peer);
  }
  listener.close();
  Socket refused(loop, begin_connect(listener));
  const IoResult result = co_await refused.connected(soon());
  EXPECT_EQ(result.status, IoStatus::kFailed);
  EXPECT_EQ(refused.error_text(), "Connection refused");
}

TEST(Socket, Connects) {
  run_on_loop(connecting);
}

Task<void> connect_times_out(Loop& loop) {
  const TestListener listener(0);
  std::vector<std::unique_ptr<Socket>> sockets;
  IoStatus status = IoStatus::kOk;
  for (int i = 0; i < 10 && status == IoStatus::kOk; ++i) {  // fills the backlog
    sockets.push_back(std::make_unique<Socket>(loop, begin_connect(listener)));
    status = (co_await sockets.back()->connected(loop.now() + Milliseconds(30))).status;
  }
  EXPECT_EQ(status, IoStatus::kTimeout);
}

TEST(Socket, ConnectTimesOut) {
  run_on_loop(connect_times_out);
}

Task<void> not_watchable(Loop& loop) {
  const int fd = open("/dev/null", O_RDWR | O_CLOEXEC);  // epoll takes no such descriptor
  Socket socket(loop, fd);
  std::array<char, 4> buffer;
  EXPECT_FALSE((co_await socket.readable(soon())).ok());
  EXPECT_FALSE((co_await socket.read_some(buffer.data(), buffer.size(), soon())).ok());
}

// Out of epoll watches is no reason for the process to end.
TEST(Socket, ThatCannotBeWatchedEndsAllWaits) {
  run_on_loop(not_watchable);
}

// Reads `bytes` by one a time; all of it is there, so no read has to wait.
Task<void> read_greedily(Socket& socket, size_t bytes, bool& is_done) {
  char byte = 0;
  for (size_t i = 0; i < bytes; ++i) co_await socket.read_some(&byte, 1, soon());
  is_done = true;
}

Task<void> fairness(Loop& loop) {
  constexpr size_t kBytes = 5000;
  Ends greedy(loop);
  send_text(greedy.peer, std::string(kBytes, 'x'));
  while (bytes_waiting(greedy.socket->fd()) < kBytes) co_await NextRound(loop);
  bool is_done = false;
  spawn(read_greedily(*greedy.socket, kBytes, is_done));
  const uint64_t begun = loop.round();
  while (!is_done) co_await NextRound(loop);
  EXPECT_GE(loop.round() - begun, kBytes / Socket::kTurnsMax);

  // One that yields while there is nothing to come still has its deadline.
  send_text(greedy.peer, std::string(Socket::kTurnsMax, 'x'));
  while (bytes_waiting(greedy.socket->fd()) < Socket::kTurnsMax) co_await NextRound(loop);
  co_await NextRound(loop);
  char byte = 0;
  for (int i = 0; i < Socket::kTurnsMax; ++i) co_await greedy.socket->read_some(&byte, 1, soon());
  const IoResult late = co_await greedy.socket->read_some(&byte, 1, loop.now() + Milliseconds(1));
  EXPECT_EQ(late.status, IoStatus::kTimeout);
}

TEST(Socket, ABusyOneLetsOthersHaveTheirTurn) {
  run_on_loop(fairness);
}

}  // namespace
}  // namespace llmproxy::net
