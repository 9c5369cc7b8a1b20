// A stream socket, plain or TLS, on one loop. Its operations are awaited directly (no coroutine
// frame, no allocation), one at a time, each with a deadline; what can be done at once never waits,
// and what is known to be not ready costs no system call; a peer that is always ready yields after
// kTurnsMax of them, so that the loop's others get their turn. Destroying the socket closes it;
// nothing may wait on it then.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "net/interrupt.h"
#include "net/loop.h"
#include "net/pace.h"

struct ssl_st;

namespace llmproxy::net {

enum class IoStatus : uint8_t {
  kOk,
  kEnd,    // the peer has sent its last byte (FIN, or TLS close_notify)
  kReset,  // RST, EPIPE, or TLS torn off without close_notify
  kTimeout,
  kCancelled,  // cancel() was called
  kAnswered,   // write_unless_answered(): the peer spoke, or ended, before it had taken all
  kFailed,     // TLS refused (certificate, protocol), or an error of the system: see error_text()
};

struct IoResult {
  IoStatus status = IoStatus::kOk;
  size_t bytes = 0;  // done, also before a failure
  bool ok() const { return status == IoStatus::kOk; }
};

class Socket final : Watched, public Interruptible {
 public:
  // Told of an event while nobody waits: the peer of an idle connection has closed it, or speaks
  // unasked.
  class IdleWatcher {
   public:
    virtual void on_idle_event(Socket& socket) = 0;  // may destroy the socket

   protected:
    ~IdleWatcher() = default;
  };

  static constexpr int kTurnsMax = 64;  // operations begun in one round of the loop

  // Takes `fd`, which is non-blocking. If the loop cannot watch it, every wait ends with
  // kCancelled.
  Socket(Loop& loop, int fd);
  ~Socket();
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  class Operation {
   public:
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    bool await_ready() { return socket_.takes_turn() && attempt(); }
    bool await_suspend(std::coroutine_handle<> waiting);
    IoResult await_resume() const { return result_; }

   protected:
    Operation(Socket& socket, MonotonicTime deadline) : socket_(socket), deadline_(deadline) {}
    ~Operation() = default;
    virtual bool attempt() = 0;  // true when result_ says how it ended

    Socket& socket_;
    MonotonicTime deadline_;
    IoResult result_;

   private:
    friend class Socket;
    std::coroutine_handle<> waiting_;
  };

  class Read final : public Operation {
   public:
    Read(Socket& socket, char* data, size_t size, MonotonicTime deadline)
        : Operation(socket, deadline), data_(data), size_(size) {}

   private:
    bool attempt() override;
    char* data_;
    size_t size_;
  };

  class Readable final : public Operation {
   public:
    Readable(Socket& socket, MonotonicTime deadline) : Operation(socket, deadline) {}

   private:
    bool attempt() override;
  };

  class Write final : public Operation {
   public:
    Write(Socket& socket, std::span<iovec> parts, Milliseconds stall, Pace pace, bool may_answer);

   private:
    bool attempt() override;
    void advance(size_t n);
    std::span<iovec> parts_;
    Milliseconds stall_;
    Pace pace_;
    bool may_answer_;
  };

  class Connect final : public Operation {
   public:
    Connect(Socket& socket, MonotonicTime deadline) : Operation(socket, deadline) {}

   private:
    bool attempt() override;
  };

  class Handshake final : public Operation {
   public:
    Handshake(Socket& socket, MonotonicTime deadline) : Operation(socket, deadline) {}

   private:
    bool attempt() override;
  };

  // At least one byte, at most `size`; kEnd with no bytes at the end.
  Read read_some(char* data, size_t size, MonotonicTime deadline) {
    return {*this, data, size, deadline};
  }
  // Until there is something to read (bytes or the end). Needs no buffer.
  Readable readable(MonotonicTime deadline) { return {*this, deadline}; }
  // All of `parts`, which is used up on the way: parts that were sent end as empty ones. Times out
  // when the peer takes nothing for `stall`, or less than `rate_min` bytes a second for `window`.
  Write write_all(std::span<iovec> parts, Milliseconds stall, size_t rate_min = 0,
                  Milliseconds window = Pace::kWindow) {
    return {*this, parts, stall, Pace(rate_min, loop_.now(), window), false};
  }
  // The same, but while the peer takes nothing, what it says ends the wait: kAnswered. The rest of
  // `parts` may be written later.
  Write write_unless_answered(std::span<iovec> parts, Milliseconds stall) {
    return {*this, parts, stall, Pace(0, loop_.now()), true};
  }
  // Ends when a connect(2) that was begun on the descriptor has ended.
  Connect connected(MonotonicTime deadline) { return {*this, deadline}; }

  // From here on the bytes go through TLS. Takes `ssl`, a client side with its name set. Then
  // handshake().
  void start_tls(ssl_st* ssl);
  Handshake handshake(MonotonicTime deadline) { return {*this, deadline}; }
  ssl_st* tls() const { return ssl_; }

  // What waits, and all that would wait from now on, ends with kCancelled. What can be done at once
  // is still done. Resumes the waiting coroutine before it returns, which may destroy this socket
  // and more.
  void cancel();
  void interrupt() override { cancel(); }

  // The peer is gone for sure (RST or an error): nothing more reaches it. A FIN alone is no such
  // thing.
  bool is_reset() const { return is_reset_; }

  void set_idle_watcher(IdleWatcher* watcher) { idle_watcher_ = watcher; }
  // No byte and no end has come that nobody has read: as far as the loop was told, or asking the
  // kernel.
  bool is_quiet();
  bool is_quiet_now();

  // Sends FIN, keeps reading possible.
  void shutdown_write();

  int fd() const { return fd_; }
  const std::string& error_text() const { return error_text_; }

 private:
  class Deadline final : public Timer {
   public:
    Deadline(Loop& loop, Socket& socket) : Timer(loop), socket_(socket) {}

   private:
    void on_deadline() override { socket_.on_deadline(); }
    Socket& socket_;
  };

  void on_events(uint32_t events) override;
  void on_deadline();
  bool takes_turn();
  void end_pause();
  void finish_operation();
  bool fail(IoResult& result, int error);
  IoResult read_now(char* data, size_t size, bool& would_block);
  IoResult write_now(std::span<iovec> parts, bool& would_block);
  // What OpenSSL reads and writes by: so it, too, makes no system call that is known to be in vain.
  struct TlsBio;
  // TLS has read ahead: bytes, if perhaps no whole record, or the end.
  bool has_pending() const;

  // recv(2) and sendmsg(2), with what they tell of readiness. Negative, with errno.
  ssize_t receive(char* data, size_t size);
  ssize_t transmit(std::span<iovec> parts);

  IoResult tls_result(int returned, size_t bytes, bool& would_block);
  IoResult tls_write_now(std::span<iovec> parts, bool& would_block);

  Loop& loop_;
  int fd_;
  bool is_readable_ = false;
  bool is_writable_ = true;
  bool has_peer_closed_ = false;  // FIN: reading ends without further edges
  bool is_reset_ = false;
  bool is_torn_ = false;        // an error was seen: what reads like an end is none
  bool is_write_shut_ = false;  // by us
  bool is_cancelled_ = false;
  bool is_pausing_ = false;  // the operation waits for the next round, not for its peer
  int turns_ = 0;            // taken in the loop's round `round_`
  uint64_t round_ = 0;
  ssl_st* ssl_ = nullptr;
  Operation* operation_ = nullptr;
  IdleWatcher* idle_watcher_ = nullptr;
  Deadline deadline_;
  std::string error_text_;
};

}  // namespace llmproxy::net
