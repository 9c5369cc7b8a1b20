// TLS sockets against an OpenSSL server on a thread, with authorities and certificates made here.
#include "net/tls.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "net/socket.h"
#include "net/test_loop.h"

namespace llmproxy::net {
namespace {

constexpr Milliseconds kStall = kPatience;

using KeyPointer = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using CertificatePointer = std::unique_ptr<X509, decltype(&X509_free)>;
using ContextPointer = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;

void add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  ASSERT_NE(extension, nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

CertificatePointer make_certificate(const char* name, EVP_PKEY* key, X509* issuer,
                                    EVP_PKEY* issuer_key, const char* subject_names) {
  CertificatePointer made(X509_new(), X509_free);
  X509* certificate = made.get();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), subject_names == nullptr ? 1 : 2);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
  if (issuer == nullptr) issuer = certificate;
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer));
  if (subject_names == nullptr) {
    add_extension(certificate, issuer, NID_basic_constraints, "critical,CA:TRUE");
  } else {
    add_extension(certificate, issuer, NID_subject_alt_name, subject_names);
  }
  X509_sign(certificate, issuer_key, EVP_sha256());
  return made;
}

// An authority, its certificate in a file.
class Authority {
 public:
  explicit Authority(const char* name)
      : key_(EVP_EC_gen("P-256"), EVP_PKEY_free),
        certificate_(make_certificate(name, key_.get(), nullptr, key_.get(), nullptr)) {
    path_ = testing::TempDir() + "llmproxy-ca-XXXXXX";
    const int fd = mkstemp(path_.data());
    std::FILE* file = fdopen(fd, "w");
    PEM_write_X509(file, certificate_.get());
    std::fclose(file);
  }
  ~Authority() { std::remove(path_.c_str()); }
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;

  const std::string& path() const { return path_; }

  ContextPointer make_server(const char* subject_names, int version) const {
    const KeyPointer key(EVP_EC_gen("P-256"), EVP_PKEY_free);
    const CertificatePointer certificate =
        make_certificate("server", key.get(), certificate_.get(), key_.get(), subject_names);
    ContextPointer context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
    SSL_CTX_use_certificate(context.get(), certificate.get());
    SSL_CTX_use_PrivateKey(context.get(), key.get());
    SSL_CTX_set_max_proto_version(context.get(), version);
    return context;
  }

 private:
  KeyPointer key_;
  CertificatePointer certificate_;
  std::string path_;
};

const Authority& authority() {
  static const Authority one("test authority");
  return one;
}

using Script = std::function<void(SSL* ssl)>;

struct ServerOptions {
  const char* names = "DNS:localhost,IP:127.0.0.1";
  int version = TLS1_3_VERSION;
  int connections = 1;
};

// Accepts `connections` in turn and runs the script on each. A failed handshake skips it.
class TlsServer {
 public:
  explicit TlsServer(Script script, ServerOptions options = {})
      : script_(std::move(script)),
        options_(options),
        context_(authority().make_server(options.names, options.version)),
        thread_([this] { run(); }) {}
  ~TlsServer() { thread_.join(); }
  uint16_t port() const { return listener_.port(); }

 private:
  void run() {
    for (int i = 0; i < options_.connections; ++i) {
      const int fd = listener_.accept();
      SSL* ssl = SSL_new(context_.get());
      SSL_set_fd(ssl, fd);
      if (SSL_accept(ssl) == 1) script_(ssl);
      SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
      SSL_free(ssl);
      ::close(fd);
      ERR_clear_error();
    }
  }

  const Script script_;
  const ServerOptions options_;
  const ContextPointer context_;
  const TestListener listener_;
  std::thread thread_;
};

void answer(SSL* ssl, int times) {
  std::array<char, 64> buffer;
  for (int i = 0; i < times; ++i) {
    size_t got = 0;
    if (SSL_read_ex(ssl, buffer.data(), buffer.size(), &got) != 1) return;
    size_t sent = 0;
    SSL_write_ex(ssl, buffer.data(), got, &sent);
  }
}

void wait_for_end(SSL* ssl) {
  std::array<char, 4096> buffer;
  size_t got = 0;
  while (SSL_read_ex(ssl, buffer.data(), buffer.size(), &got) == 1) {
  }
}

// A client side and how its handshake ended.
struct Client {
  explicit Client(bool verify = true, const std::string& ca_file = authority().path()) {
    std::string error;
    context = TlsContext::make(verify, ca_file, error);
    EXPECT_EQ(error, "");
  }
  TlsSession session;
  std::unique_ptr<TlsContext> context;
  std::unique_ptr<Socket> socket;
  IoStatus status = IoStatus::kOk;
};

int connect_blocking(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    test_failed("connect");
  }
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  return fd;
}

Task<void> open(Loop& loop, Client& client, uint16_t port, std::string host,
                MonotonicTime deadline) {
  client.socket = std::make_unique<Socket>(loop, connect_blocking(port));
  client.socket->start_tls(client.context->make_client(host, client.session));
  client.status = (co_await client.socket->handshake(deadline)).status;
}

Task<IoStatus> write_text(Socket& socket, std::string text) {
  iovec part{text.data(), text.size()};
  co_return (co_await socket.write_all({&part, 1}, kStall)).status;
}

Task<std::string> read_exactly(Socket& socket, size_t size) {
  std::string text(size, '\0');
  for (size_t have = 0; have < size;) {
    const IoResult read = co_await socket.read_some(text.data() + have, size - have, soon());
    have += read.bytes;
    if (read.ok()) continue;
    ADD_FAILURE() << "read ended after " << have << " of " << size;
    text.resize(have);
    break;
  }
  co_return text;
}

Task<void> exchange(Client& client, std::string text) {
  EXPECT_EQ(co_await write_text(*client.socket, text), IoStatus::kOk);
  EXPECT_EQ(co_await read_exactly(*client.socket, text.size()), text);
}

struct HandshakeCase {
  const char* what;
  bool verify;
  bool is_own_authority;
  const char* host;
  const char* server_names;
  const char* error;  // "" : it succeeds
};

constexpr std::array kHandshakes = {
    HandshakeCase{"good", true, true, "localhost", "DNS:localhost", ""},
    HandshakeCase{"good address", true, true, "127.0.0.1", "IP:127.0.0.1", ""},
    HandshakeCase{"good wildcard", true, true, "a.example.com", "DNS:*.example.com", ""},
    HandshakeCase{"other authority", true, false, "localhost", "DNS:localhost",
                  "unable to get local issuer certificate"},
    HandshakeCase{"wrong name", true, true, "localhost", "DNS:other.example", "hostname mismatch"},
    HandshakeCase{"wrong address", true, true, "127.0.0.1", "IP:127.0.0.2", "IP address mismatch"},
    HandshakeCase{"address by name", true, true, "127.0.0.1", "DNS:127.0.0.1",
                  "IP address mismatch"},
    HandshakeCase{"unverified", false, true, "localhost", "DNS:other.example", ""},
};

Task<void> handshake(Loop& loop, const HandshakeCase* c) {
  const Authority other("other authority");
  Client client(c->verify, c->is_own_authority ? authority().path() : other.path());
  const TlsServer server([](SSL* ssl) { answer(ssl, 1); }, {.names = c->server_names});
  co_await open(loop, client, server.port(), c->host, soon());
  if (*c->error == '\0') {
    EXPECT_EQ(client.status, IoStatus::kOk);
    if (client.status == IoStatus::kOk) co_await exchange(client, "hello");
  } else {
    EXPECT_EQ(client.status, IoStatus::kFailed);
    EXPECT_EQ(client.socket->error_text(), c->error);
  }
  client.socket.reset();
}

TEST(Tls, ChecksCertificateAndName) {
  for (const HandshakeCase& c : kHandshakes) {
    SCOPED_TRACE(c.what);
    run_on_loop(handshake, &c);
  }
}

TEST(Tls, UnreadableAuthoritiesAreAnError) {
  std::string error;
  EXPECT_EQ(TlsContext::make(true, "no/such/file.pem", error), nullptr);
  EXPECT_EQ(error, "No such file or directory");
  EXPECT_EQ(TlsContext::make(true, "LICENSE", error), nullptr);  // in the root of the project
  EXPECT_EQ(error, "no certificate or crl found");
}

Task<void> resume(Loop& loop, int version) {
  Client client;
  const TlsServer server([](SSL* ssl) { answer(ssl, 1); }, {.version = version, .connections = 3});
  for (int i = 0; i < 3; ++i) {
    co_await open(loop, client, server.port(), "localhost", soon());
    EXPECT_EQ(client.status, IoStatus::kOk);
    EXPECT_EQ(SSL_session_reused(client.socket->tls()), i > 0 ? 1 : 0) << i;
    co_await exchange(client, "hello");
    client.socket.reset();
  }
}

TEST(Tls, ResumesTheSessionOfAClosedConnection) {
  run_on_loop(resume, TLS1_2_VERSION);
  run_on_loop(resume, TLS1_3_VERSION);
}

Task<void> say_goodbye(Loop& loop, int* error) {
  Client client;
  const TlsServer server([error](SSL* ssl) {
    answer(ssl, 1);
    char byte = 0;
    size_t got = 0;
    *error = SSL_get_error(ssl, SSL_read_ex(ssl, &byte, 1, &got));
  });
  co_await open(loop, client, server.port(), "localhost", soon());
  co_await exchange(client, "hello");
  client.socket.reset();
}

TEST(Tls, ClosingSendsCloseNotify) {
  int error = SSL_ERROR_NONE;
  run_on_loop(say_goodbye, &error);
  EXPECT_EQ(error, SSL_ERROR_ZERO_RETURN);
}

Task<void> ends(Loop& loop, bool is_clean) {
  Client client;
  const TlsServer server([is_clean](SSL* ssl) {
    answer(ssl, 1);
    if (is_clean) SSL_shutdown(ssl);
  });
  co_await open(loop, client, server.port(), "localhost", soon());
  co_await exchange(client, "hello");
  std::array<char, 16> buffer;
  for (int i = 0; i < 2; ++i) {
    const IoResult end = co_await client.socket->read_some(buffer.data(), buffer.size(), soon());
    EXPECT_EQ(end.status, is_clean ? IoStatus::kEnd : IoStatus::kReset);
  }
}

TEST(Tls, CloseNotifyIsTheEnd) {
  run_on_loop(ends, true);
}
TEST(Tls, TornOffWithoutCloseNotifyIsAReset) {
  run_on_loop(ends, false);
}

Task<void> large(Loop& loop) {
  constexpr size_t kSize = 3 << 20;
  Client client;
  std::string got;
  {
    const TlsServer server([&got](SSL* ssl) {
      got.resize(kSize);
      for (size_t have = 0, n = 0; have < kSize; have += n) {
        if (SSL_read_ex(ssl, got.data() + have, kSize - have, &n) != 1) return;
      }
      size_t sent = 0;
      SSL_write_ex(ssl, got.data(), got.size(), &sent);
    });
    co_await open(loop, client, server.port(), "localhost", soon());
    std::string text(kSize, '\0');
    for (size_t i = 0; i < kSize; ++i) text[i] = static_cast<char>(i * 7 + i / 251);
    std::vector<iovec> parts;  // empty ones, small ones, and one larger than a record
    for (size_t at = 0, i = 0; at < kSize; ++i) {
      const size_t size = std::min(kSize - at, i % 7 == 0 ? 0 : i % 50 == 1 ? 100'000 : i * 13);
      parts.push_back({text.data() + at, size});
      at += size;
    }
    const IoResult written = co_await client.socket->write_all(parts, kStall);
    EXPECT_TRUE(written.ok());
    EXPECT_EQ(written.bytes, kSize);
    const std::string back = co_await read_exactly(*client.socket, kSize);
    EXPECT_TRUE(back == text);
  }
}

TEST(Tls, WritesAndReadsMuch) {
  run_on_loop(large);
}

Task<void> empty_write(Loop& loop) {
  Client client;
  const TlsServer server([](SSL* ssl) { answer(ssl, 1); });
  co_await open(loop, client, server.port(), "localhost", soon());
  EXPECT_EQ(co_await write_text(*client.socket, ""), IoStatus::kOk);
  co_await exchange(client, "hello");
  client.socket.reset();
}

TEST(Tls, WritesNothingAtOnce) {
  run_on_loop(empty_write);
}

class CountingWatcher final : public Socket::IdleWatcher {
 public:
  void on_idle_event(Socket&) override { ++calls; }
  int calls = 0;
};

// A kept connection: quiet after each reply (the server's tickets came with the first), used again,
// and told of the end while idle.
Task<void> keep(Loop& loop, int version) {
  Client client;
  CountingWatcher watcher;
  const TlsServer server(
      [](SSL* ssl) {
        answer(ssl, 3);
        SSL_shutdown(ssl);
      },
      {.version = version});
  co_await open(loop, client, server.port(), "localhost", soon());
  for (const char* text : {"first", "second", "third"}) {
    co_await exchange(client, text);
    EXPECT_TRUE(*text == 't' || client.socket->is_quiet()) << text;
  }
  client.socket->set_idle_watcher(&watcher);
  while (watcher.calls == 0 && client.socket->is_quiet()) co_await NextRound(loop);
  EXPECT_FALSE(client.socket->is_quiet());
}

TEST(Tls, KeptConnection) {
  run_on_loop(keep, TLS1_2_VERSION);
  run_on_loop(keep, TLS1_3_VERSION);
}

// The end that came with the last bytes is read with them, and no event tells of it; who looks or
// reads still sees it, each time.
Task<void> end_read_ahead(Loop& loop) {
  Client client;
  const TlsServer server([](SSL* ssl) {
    const auto cork = [ssl](int on) {
      setsockopt(SSL_get_fd(ssl), IPPROTO_TCP, TCP_CORK, &on, sizeof on);
    };
    cork(1);
    answer(ssl, 1);
    SSL_shutdown(ssl);
    cork(0);
    wait_for_end(ssl);
  });
  co_await open(loop, client, server.port(), "localhost", soon());
  co_await write_text(*client.socket, "hello");
  EXPECT_EQ(co_await read_exactly(*client.socket, 5), "hello");
  EXPECT_FALSE(client.socket->is_quiet());
  EXPECT_FALSE(client.socket->is_quiet());
  char byte;
  for (int i = 0; i < 2; ++i) {
    const IoResult read = co_await client.socket->read_some(&byte, 1, soon());
    EXPECT_EQ(read.status, IoStatus::kEnd);
  }
  client.socket.reset();
}

TEST(Tls, AnEndThatWasReadAhead) {
  run_on_loop(end_read_ahead);
}

Task<void> unasked(Loop& loop) {
  Client client;
  const TlsServer server([](SSL* ssl) {
    answer(ssl, 1);
    size_t sent = 0;
    SSL_write_ex(ssl, "more", 4, &sent);
    wait_for_end(ssl);
  });
  co_await open(loop, client, server.port(), "localhost", soon());
  co_await exchange(client, "hello");
  while (client.socket->is_quiet()) co_await NextRound(loop);
  EXPECT_EQ(co_await read_exactly(*client.socket, 4), "more");  // looking took nothing away
  EXPECT_TRUE(client.socket->is_quiet());
  client.socket.reset();
}

TEST(Tls, UnaskedBytesAreNotQuiet) {
  run_on_loop(unasked);
}

// Part of a decrypted record is left with OpenSSL; no event of the descriptor tells of it.
Task<void> pending(Loop& loop) {
  Client client;
  const TlsServer server([](SSL* ssl) {
    answer(ssl, 1);
    wait_for_end(ssl);
  });
  co_await open(loop, client, server.port(), "localhost", soon());
  co_await write_text(*client.socket, "0123456789");
  EXPECT_EQ(co_await read_exactly(*client.socket, 4), "0123");
  EXPECT_FALSE(client.socket->is_quiet());
  EXPECT_TRUE((co_await client.socket->readable(loop.now())).ok());
  EXPECT_EQ(co_await read_exactly(*client.socket, 6), "456789");
  client.socket.reset();
}

TEST(Tls, BytesLeftWithOpensslAreReadable) {
  run_on_loop(pending);
}

Task<void> silent(Loop& loop) {
  const TestListener listener;  // accepts TCP, says nothing
  Client client;
  co_await open(loop, client, listener.port(), "localhost", loop.now() + Milliseconds(2));
  EXPECT_EQ(client.status, IoStatus::kTimeout);
}

Task<void> no_tls(Loop& loop) {
  const TestListener listener;
  Client client;
  std::thread server([&] {
    const int fd = listener.accept();
    send_text(fd, "HTTP/1.1 400 Bad Request\r\n\r\n");
    std::array<char, 4096> buffer;
    while (recv(fd, buffer.data(), buffer.size(), 0) > 0) {
    }
    close(fd);
  });
  co_await open(loop, client, listener.port(), "localhost", soon());
  EXPECT_EQ(client.status, IoStatus::kFailed);
  EXPECT_EQ(client.socket->error_text(), "wrong version number");
  client.socket.reset();
  server.join();
}

Task<void> closed_in_handshake(Loop& loop) {
  const TestListener listener;
  Client client;
  std::thread server([&] { reset(listener.accept()); });
  co_await open(loop, client, listener.port(), "localhost", soon());
  EXPECT_EQ(client.status, IoStatus::kReset);
  server.join();
}

TEST(Tls, HandshakeTimesOut) {
  run_on_loop(silent);
}
TEST(Tls, HandshakeWithAServerThatSpeaksNoTls) {
  run_on_loop(no_tls);
}
TEST(Tls, HandshakeCutOff) {
  run_on_loop(closed_in_handshake);
}

// OpenSSL writes with write(2): as in the program, SIGPIPE must be ignored.
class IgnoreSigpipe final : public testing::Environment {
 public:
  void SetUp() override { std::signal(SIGPIPE, SIG_IGN); }
};
const auto* const ignore_sigpipe = testing::AddGlobalTestEnvironment(new IgnoreSigpipe);

}  // namespace
}  // namespace llmproxy::net
