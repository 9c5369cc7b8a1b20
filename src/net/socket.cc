// Readiness is remembered from epoll's edges: a read that returned less than asked for has drained
// the socket, so the next one waits without asking the kernel (one system call less per streamed
// chunk).
#include "net/socket.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/text.h"

namespace llmproxy::net {
namespace {

constexpr size_t kTlsRecordBytes = 16384;
constexpr size_t kPartsMax = 64;  // of one sendmsg; far below IOV_MAX
constexpr std::chrono::nanoseconds kNextRound{1};

// Nothing can be read, or written, at the moment.
bool is_not_ready(int error) {
  return error == EAGAIN || error == EWOULDBLOCK;
}

// OpenSSL's verdict on a call looks at what earlier ones left behind.
void forget_errors() {
  ERR_clear_error();
  errno = 0;
}

}  // namespace

Socket::Socket(Loop& loop, int fd) : loop_(loop), fd_(fd), deadline_(loop, *this) {
  if (loop_.watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, *this)) return;
  error_text_ = errno_text(errno);
  is_cancelled_ = true;
}

Socket::~Socket() {
  LLMPROXY_CHECK(operation_ == nullptr);
  loop_.forget(*this);
  if (ssl_ != nullptr) {
    // RFC 8446, section 6.1; and of a connection that ends without it OpenSSL resumes no session.
    if (!is_reset_ && SSL_is_init_finished(ssl_)) SSL_shutdown(ssl_);
    SSL_free(ssl_);
    ERR_clear_error();
  }
  close(fd_);
}

void Socket::on_events(uint32_t events) {
  if (events & EPOLLIN) is_readable_ = true;
  if (events & EPOLLOUT) is_writable_ = true;
  if (events & EPOLLRDHUP) is_readable_ = has_peer_closed_ = true;
  if (events & (EPOLLHUP | EPOLLERR)) is_readable_ = is_writable_ = true;
  // EPOLLHUP alone says that both directions are shut; one of them perhaps by us.
  if ((events & EPOLLERR) || ((events & EPOLLHUP) && !is_write_shut_)) is_reset_ = true;
  if (operation_ != nullptr) {
    end_pause();
    if (operation_->attempt()) finish_operation();
    return;
  }
  const bool is_news = (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  if (is_news && idle_watcher_ != nullptr) idle_watcher_->on_idle_event(*this);
}

bool Socket::Operation::await_suspend(std::coroutine_handle<> waiting) {
  if (socket_.is_cancelled_) {
    result_.status = IoStatus::kCancelled;
    return false;
  }
  LLMPROXY_CHECK(socket_.operation_ == nullptr);
  // First: it may throw, and then nobody waits.
  socket_.deadline_.arm(socket_.is_pausing_ ? socket_.loop_.now() + kNextRound : deadline_);
  waiting_ = waiting;
  socket_.operation_ = this;
  return true;
}

bool Socket::takes_turn() {
  if (is_cancelled_) return true;
  if (std::exchange(round_, loop_.round()) != loop_.round()) turns_ = 0;
  is_pausing_ = ++turns_ > kTurnsMax;
  return !is_pausing_;
}

void Socket::end_pause() {
  if (std::exchange(is_pausing_, false)) deadline_.arm(operation_->deadline_);
}

void Socket::finish_operation() {
  deadline_.disarm();
  std::exchange(operation_, nullptr)->waiting_.resume();
}

void Socket::on_deadline() {
  if (operation_ == nullptr) return;
  if (is_pausing_) {
    end_pause();
    if (operation_->attempt()) finish_operation();
    return;
  }
  operation_->result_.status = IoStatus::kTimeout;
  finish_operation();
}

void Socket::cancel() {
  is_cancelled_ = true;
  if (operation_ == nullptr) return;
  operation_->result_.status = IoStatus::kCancelled;
  finish_operation();
}

bool Socket::is_quiet() {
  if (has_peer_closed_ || is_reset_) return false;
  if (!is_readable_ && !has_pending()) return true;
  char byte;  // perhaps drained without having noticed: the last read filled its buffer, or was TLS
  if (ssl_ == nullptr) {
    if (recv(fd_, &byte, 1, MSG_PEEK) >= 0 || !is_not_ready(errno)) return false;
    is_readable_ = false;
    return true;
  }
  forget_errors();
  size_t bytes = 0;
  bool would_block = false;
  const int returned = SSL_peek_ex(ssl_, &byte, 1, &bytes);
  tls_result(returned, bytes, would_block);
  return would_block;
}

bool Socket::is_quiet_now() {
  is_readable_ = true;
  return is_quiet();
}

void Socket::shutdown_write() {
  is_write_shut_ = true;
  shutdown(fd_, SHUT_WR);
}

// Fills in how an operation failed; always true, so that attempt() can return it.
bool Socket::fail(IoResult& result, int error) {
  is_reset_ = is_readable_ = is_writable_ = true;  // nothing to wait for any more
  // The kernel tells of an error once; recv(2) then returns 0. EPIPE is no such error: the peer's
  // FIN came before it, or an error that was told already.
  if (error != EPIPE) is_torn_ = true;
  if (error == ECONNRESET || error == EPIPE || error == ETIMEDOUT) {
    result.status = IoStatus::kReset;
  } else {
    result.status = IoStatus::kFailed;
    error_text_ = errno_text(error);
  }
  return true;
}

ssize_t Socket::receive(char* data, size_t size) {
  ssize_t n;
  do {
    n = recv(fd_, data, size, 0);
  } while (n < 0 && errno == EINTR);
  // After a FIN no edge would come: let the next try see the end.
  const bool is_short = n > 0 && static_cast<size_t>(n) < size;
  const bool is_drained = is_short && !has_peer_closed_ && !is_reset_;
  if (is_drained || (n < 0 && is_not_ready(errno))) is_readable_ = false;
  return n;
}

ssize_t Socket::transmit(std::span<iovec> parts) {
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = std::min(parts.size(), kPartsMax);
  ssize_t n;
  do {
    n = sendmsg(fd_, &message, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && is_not_ready(errno)) is_writable_ = false;
  return n;
}

IoResult Socket::read_now(char* data, size_t size, bool& would_block) {
  IoResult result;
  would_block = false;
  if (ssl_ != nullptr) {
    forget_errors();
    size_t bytes = 0;
    const int returned = SSL_read_ex(ssl_, data, size, &bytes);
    return tls_result(returned, bytes, would_block);
  }
  const ssize_t n = receive(data, size);
  if (n > 0) {
    result.bytes = static_cast<size_t>(n);
  } else if (n == 0) {
    result.status = is_torn_ ? IoStatus::kReset : IoStatus::kEnd;
  } else if (is_not_ready(errno)) {
    would_block = true;
  } else {
    fail(result, errno);
  }
  return result;
}

bool Socket::Read::attempt() {
  if (!socket_.is_readable_ && !socket_.has_pending()) return false;
  bool would_block = false;
  result_ = socket_.read_now(data_, size_, would_block);
  return !would_block;
}

bool Socket::Readable::attempt() {
  return socket_.is_readable_ || socket_.has_pending();
}

Socket::Write::Write(Socket& socket, std::span<iovec> parts, Milliseconds stall, Pace pace,
                     bool may_answer)
    : Operation(socket, socket.loop_.now() + stall),
      parts_(parts),
      stall_(stall),
      pace_(pace),
      may_answer_(may_answer) {}

void Socket::Write::advance(size_t n) {
  result_.bytes += n;
  while (!parts_.empty() && n >= parts_.front().iov_len) {
    n -= std::exchange(parts_.front().iov_len, 0);
    parts_ = parts_.subspan(1);
  }
  if (n > 0) {
    parts_.front().iov_base = static_cast<char*>(parts_.front().iov_base) + n;
    parts_.front().iov_len -= n;
  }
}

bool Socket::Write::attempt() {
  while (!parts_.empty()) {
    if (socket_.is_reset_) {
      result_.status = IoStatus::kReset;
      return true;
    }
    bool would_block = !socket_.is_writable_;
    IoResult result;
    if (!would_block) result = socket_.write_now(parts_, would_block);
    if (would_block) {
      if (!may_answer_ || socket_.is_quiet()) return false;
      result.status = IoStatus::kAnswered;
    }
    if (!result.ok()) {
      result_.status = result.status;
      return true;
    }
    advance(result.bytes);
    if (parts_.empty()) return true;
    if (!pace_.keeps(result.bytes, socket_.loop_.now())) {
      result_.status = IoStatus::kTimeout;
      return true;
    }
    if (socket_.operation_ == this) {
      socket_.deadline_.arm(socket_.loop_.now() + stall_);  // it moved: the stall begins anew
    }
  }
  return true;
}

IoResult Socket::write_now(std::span<iovec> parts, bool& would_block) {
  IoResult result;
  would_block = false;
  if (ssl_ != nullptr) return tls_write_now(parts, would_block);
  const ssize_t n = transmit(parts);
  if (n >= 0) {
    result.bytes = static_cast<size_t>(n);
  } else if (is_not_ready(errno)) {
    would_block = true;
  } else {
    fail(result, errno);
  }
  return result;
}

// Small parts are gathered into one record: a head and a body in two records cost more than the
// copy.
IoResult Socket::tls_write_now(std::span<iovec> parts, bool& would_block) {
  thread_local std::array<char, kTlsRecordBytes> record;
  const void* data = parts.front().iov_base;
  size_t size = parts.front().iov_len;
  if (size < record.size() && parts.size() > 1) {
    size = 0;
    for (const iovec& part : parts) {
      const size_t n = std::min(part.iov_len, record.size() - size);
      std::memcpy(record.data() + size, part.iov_base, n);
      size += n;
      if (n < part.iov_len) break;
    }
    data = record.data();
  }
  forget_errors();
  size_t bytes = 0;
  const int returned = SSL_write_ex(ssl_, data, size, &bytes);
  return tls_result(returned, bytes, would_block);
}

struct Socket::TlsBio {
  static int read(BIO* bio, char* data, size_t size, size_t* done) {
    Socket& socket = *static_cast<Socket*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    *done = 0;
    const ssize_t n = socket.is_readable_ ? socket.receive(data, size) : -1;
    if (n < 0 && !socket.is_readable_) BIO_set_retry_read(bio);
    if (n <= 0) return 0;
    *done = static_cast<size_t>(n);
    return 1;
  }
  static int write(BIO* bio, const char* data, size_t size, size_t* done) {
    Socket& socket = *static_cast<Socket*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    *done = 0;
    iovec part{const_cast<char*>(data), size};
    const ssize_t n = socket.is_writable_ ? socket.transmit({&part, 1}) : -1;
    if (n < 0 && !socket.is_writable_) BIO_set_retry_write(bio);
    if (n <= 0) return 0;
    *done = static_cast<size_t>(n);
    return 1;
  }
  static long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

  // Made once, and never freed: sockets may outlive static objects.
  static const BIO_METHOD* method() {
    static const BIO_METHOD* const made = [] {
      BIO_METHOD* const method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
      LLMPROXY_CHECK(method != nullptr);
      BIO_meth_set_read_ex(method, read);
      BIO_meth_set_write_ex(method, write);
      BIO_meth_set_ctrl(method, control);
      return method;
    }();
    return made;
  }
};

bool Socket::has_pending() const {
  if (ssl_ == nullptr) return false;
  return SSL_has_pending(ssl_) == 1 || (SSL_get_shutdown(ssl_) & SSL_RECEIVED_SHUTDOWN) != 0;
}

IoResult Socket::tls_result(int returned, size_t bytes, bool& would_block) {
  IoResult result;
  if (returned == 1) {
    result.bytes = bytes;
    return result;
  }
  switch (SSL_get_error(ssl_, returned)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      would_block = true;
      break;
    case SSL_ERROR_ZERO_RETURN:
      result.status = IoStatus::kEnd;
      break;
    case SSL_ERROR_SYSCALL:
      fail(result, errno != 0 ? errno : ECONNRESET);
      break;
    default: {
      const unsigned long error = ERR_peek_last_error();
      if (ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        fail(result, ECONNRESET);
        break;
      }
      const char* reason = ERR_reason_error_string(error);
      if (ERR_GET_REASON(error) == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        reason = X509_verify_cert_error_string(SSL_get_verify_result(ssl_));
      }
      error_text_ = reason != nullptr ? reason : "TLS error";
      result.status = IoStatus::kFailed;
    }
  }
  return result;
}

bool Socket::Connect::attempt() {
  if (!socket_.is_writable_ && !socket_.is_reset_) return false;
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(socket_.fd_, SOL_SOCKET, SO_ERROR, &error, &size);
  sockaddr_storage peer;
  socklen_t peer_size = sizeof peer;
  if (error == 0 && getpeername(socket_.fd_, reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0) {
    return true;
  }
  if (error != 0 || socket_.is_reset_) {
    socket_.error_text_ = errno_text(error != 0 ? error : ENOTCONN);
    result_.status = IoStatus::kFailed;
    return true;
  }
  socket_.is_writable_ = false;  // not yet: wait for the edge
  return false;
}

void Socket::start_tls(ssl_st* ssl) {
  ssl_ = ssl;
  BIO* const bio = BIO_new(TlsBio::method());
  LLMPROXY_CHECK(bio != nullptr);
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);
  SSL_set_read_ahead(ssl, 1);  // a record's head and its body by one call
  SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                        SSL_MODE_RELEASE_BUFFERS);
}

bool Socket::Handshake::attempt() {
  forget_errors();
  bool would_block = false;
  const int returned = SSL_connect(socket_.ssl_);
  result_ = socket_.tls_result(returned, 0, would_block);
  return !would_block;
}

}  // namespace llmproxy::net
