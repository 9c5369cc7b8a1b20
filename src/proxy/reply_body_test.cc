// Bodies of replies in all three framings, over a TCP connection, whatever the reads cut them into.
#include "proxy/reply_body.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "net/test_loop.h"

namespace llmproxy {
namespace {

using Status = ReplyBody::Status;

enum class Framing { kChunked, kSized, kUntilClose, kNone };

struct Case {
  const char* what;
  Framing framing;
  std::string_view wire;  // all that the backend sends behind the head
  size_t length;          // of kSized
  bool ends;              // the backend closes after it
  std::string_view payload;
  bool is_done;
  bool is_clean;
  std::optional<Status> failure;
};

constexpr Case kCases[] = {
    {"sized", Framing::kSized, "hello world", 11, false, "hello world", true, true, {}},
    {"sized, empty", Framing::kSized, "", 0, false, "", true, true, {}},
    {"sized, excess", Framing::kSized, "helloHTTP", 5, false, "hello", true, false, {}},
    {"sized, empty, excess", Framing::kSized, "x", 0, false, "", true, false, {}},
    {"sized, cut", Framing::kSized, "hell", 5, true, "hell", false, false, Status::kCut},
    {"chunked",
     Framing::kChunked,
     "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
     0,
     false,
     "hello world",
     true,
     true,
     {}},
    {"chunked, empty", Framing::kChunked, "0\r\n\r\n", 0, false, "", true, true, {}},
    {"chunked, excess",
     Framing::kChunked,
     "1\r\na\r\n0\r\n\r\nHTTP",
     0,
     false,
     "a",
     true,
     false,
     {}},
    {"chunked, trailers",
     Framing::kChunked,
     "1;x=y\r\na\r\n0\r\nA: b\r\n\r\n",
     0,
     false,
     "a",
     true,
     true,
     {}},
    {"chunked, cut in a chunk", Framing::kChunked, "5\r\nhel", 0, true, "hel", false, false,
     Status::kCut},
    {"chunked, cut before the last", Framing::kChunked, "5\r\nhello\r\n", 0, true, "hello", false,
     false, Status::kCut},
    {"chunked, broken", Framing::kChunked, "5\r\nhello\r\nzz\r\n", 0, false, "hello", false, false,
     Status::kInvalid},
    {"until close", Framing::kUntilClose, "hello world", 0, true, "hello world", true, false, {}},
    {"until close, empty", Framing::kUntilClose, "", 0, true, "", true, false, {}},
    {"none", Framing::kNone, "", 0, false, "", true, true, {}},
    {"none, excess", Framing::kNone, "x", 0, false, "", true, false, {}},
};

// A connection to a peer of this test.
struct Ends {
  explicit Ends(net::Loop& loop) {
    const net::TcpPair pair;
    exchange.connection = std::make_unique<net::BackendConnection>(loop, pair.ours, blocks);
    peer = pair.theirs;
  }
  ~Ends() { close_peer(); }
  Ends(const Ends&) = delete;
  Ends& operator=(const Ends&) = delete;
  void close_peer() {
    if (peer >= 0) ::close(std::exchange(peer, -1));
  }
  void set_framing(Framing framing, size_t length) {
    exchange.is_chunked = framing == Framing::kChunked;
    exchange.has_no_body = framing == Framing::kNone;
    if (framing == Framing::kSized) exchange.content_length = length;
  }
  // As if it had been read together with the head.
  void put_into_buffer(std::string_view bytes) {
    if (bytes.empty()) return;
    net::Buffer& input = exchange.connection->input;
    input.make_room(net::kBlockBytes);
    bytes.copy(input.tail(), bytes.size());
    input.append(bytes.size());
  }

  net::BlockPool blocks;
  Exchange exchange;
  int peer = -1;
};

// The first `with_head` bytes come with the head, the rest in pieces of `piece` bytes, each read by
// itself.
net::Task<void> read_body(net::Loop& loop, const Case* c, size_t with_head, size_t piece) {
  Ends ends(loop);
  ends.set_framing(c->framing, c->length);
  ends.put_into_buffer(c->wire.substr(0, with_head));
  ReplyBody body(ends.exchange);
  std::string_view left = c->wire.substr(with_head);
  std::optional<Status> failure;
  std::string payload;
  while (!body.is_done() && !failure) {
    payload += body.bytes();
    body.consume(body.bytes().size());
    const std::string_view next = left.substr(0, piece);
    left.remove_prefix(next.size());
    if (!next.empty()) {
      net::send_text(ends.peer, std::string(next));
    } else if (c->ends) {
      ends.close_peer();
    }
    const Status status = co_await body.more(net::soon(), 1 << 20);
    if (status != Status::kMore) failure = status;
  }
  payload += body.bytes();
  EXPECT_EQ(payload, c->payload);
  EXPECT_EQ(body.is_done(), c->is_done);
  EXPECT_EQ(failure, c->failure);
  EXPECT_EQ(body.is_close_delimited(),
            c->framing == Framing::kUntilClose || c->framing == Framing::kNone);
  // What was never read cannot count as excess here; the connection's is_quiet() sees it.
  EXPECT_TRUE(!left.empty() || body.is_clean() == c->is_clean);
}

TEST(ReplyBody, EveryFramingHoweverItArrives) {
  for (const Case& c : kCases) {
    for (size_t with_head = 0; with_head <= c.wire.size(); ++with_head) {
      for (const size_t piece : {size_t{1}, size_t{3}, c.wire.size() + 1}) {
        SCOPED_TRACE(testing::Message() << c.what << ": " << with_head << " with the head, then "
                                        << piece << " at a time");
        net::run_on_loop(read_body, &c, with_head, piece);
      }
    }
  }
}

// Bytes that the caller leaves in the buffer stay in front of those that come.
net::Task<void> leave_in_buffer(net::Loop& loop) {
  Ends ends(loop);
  ends.exchange.is_chunked = true;
  ReplyBody body(ends.exchange);
  std::string wanted;
  for (const char* chunk : {"3\r\nabc\r\n", "2\r\nde\r\n", "1\r\nf\r\n", "0\r\n\r\n"}) {
    net::send_text(ends.peer, chunk);
    EXPECT_EQ(co_await body.more(net::soon(), 1 << 20), Status::kMore);
    if (*chunk == '2') body.consume(4);
  }
  EXPECT_EQ(body.bytes(), "ef");
  EXPECT_TRUE(body.is_clean());
}

TEST(ReplyBody, KeepsWhatIsNotConsumed) {
  net::run_on_loop(leave_in_buffer);
}

net::Task<void> full(net::Loop& loop) {
  Ends ends(loop);
  ends.exchange.content_length = 100'000;
  ReplyBody body(ends.exchange);
  constexpr size_t kLimit = 40'000;
  net::send_text(ends.peer, std::string(60'000, 'x'));
  Status status = Status::kMore;
  while (status == Status::kMore) status = co_await body.more(net::soon(), kLimit);
  EXPECT_EQ(status, Status::kFull);
  EXPECT_EQ(body.bytes().size(), kLimit + net::kBlockBytes);
}

TEST(ReplyBody, FullABlockAboveItsLimit) {
  net::run_on_loop(full);
}

// The token is masked however the reads cut it; what was passed on before is left alone.
net::Task<void> read_masked(net::Loop& loop, Framing framing, size_t piece) {
  constexpr std::string_view kSecret = "sk-secret-12";
  std::string payload = "a sk-secret-12 b sk-secret-1 c sk-secret-12sk-secret-12";
  std::string masked = "a ************ b sk-secret-1 c ************************";
  std::string wire = payload;
  if (framing == Framing::kChunked) {
    wire.clear();
    for (const char c : payload) wire += std::string("1\r\n") + c + "\r\n";
    wire += "0\r\n\r\n";
  }
  Ends ends(loop);
  ends.exchange.secret = kSecret;
  ends.set_framing(framing, payload.size());
  ends.put_into_buffer(wire.substr(0, piece));
  ReplyBody body(ends.exchange);
  for (size_t at = piece; at < wire.size(); at += piece) {
    EXPECT_FALSE(body.is_done());
    EXPECT_EQ(body.unmasked(), kSecret.size() - 1);
    net::send_text(ends.peer, wire.substr(at, piece));
    const Status status = co_await body.more(net::soon(), 1 << 20);
    EXPECT_EQ(status, Status::kMore);
  }
  EXPECT_EQ(body.bytes(), masked);
}

TEST(ReplyBody, MasksTheTokenHoweverItArrives) {
  for (const Framing framing : {Framing::kChunked, Framing::kSized, Framing::kUntilClose}) {
    for (const size_t piece : std::initializer_list<size_t>{1, 2, 3, 5, 7, 11, 12, 13, 24, 1000}) {
      SCOPED_TRACE(piece);
      net::run_on_loop(read_masked, framing, piece);
    }
  }
}

net::Task<void> ends_of_waiting(net::Loop& loop) {
  Ends ends(loop);
  ends.exchange.content_length = 10;
  ReplyBody body(ends.exchange);
  EXPECT_EQ(co_await body.more(loop.now(), 1 << 20), Status::kTimeout);
  net::send_text(ends.peer, "12345");
  EXPECT_EQ(co_await body.more(net::soon(), 1 << 20), Status::kMore);
  EXPECT_EQ(co_await body.more(loop.now(), 1 << 20), Status::kTimeout);
  ends.exchange.connection->socket.cancel();
  EXPECT_EQ(co_await body.more(net::soon(), 1 << 20), Status::kCancelled);
  EXPECT_EQ(body.bytes(), "12345");
}

TEST(ReplyBody, TimesOutAndIsCancelled) {
  net::run_on_loop(ends_of_waiting);
}

net::Task<void> reset_until_close(net::Loop& loop) {
  Ends ends(loop);
  ReplyBody body(ends.exchange);
  net::send_text(ends.peer, "some");
  EXPECT_EQ(co_await body.more(net::soon(), 1 << 20), Status::kMore);
  net::reset(std::exchange(ends.peer, -1));
  EXPECT_EQ(co_await body.more(net::soon(), 1 << 20), Status::kCut);
  EXPECT_FALSE(body.is_done());
}

TEST(ReplyBody, AResetIsNoEnd) {
  net::run_on_loop(reset_until_close);
}

}  // namespace
}  // namespace llmproxy
