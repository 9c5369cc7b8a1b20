// TLS towards backends: certificates verified against the system's authorities or a given file, the
// name checked, sessions resumed. One context serves all backends with the same settings. One
// thread.
#pragma once

#include <memory>
#include <string>

struct ssl_ctx_st;
struct ssl_st;
struct ssl_session_st;

namespace llmproxy::net {

// Where the last session of one backend is kept, so that the next connection resumes it.
class TlsSession {
 public:
  TlsSession() = default;
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;
  void keep(ssl_session_st* session);  // takes it
  ssl_session_st* get() const { return session_; }

 private:
  ssl_session_st* session_ = nullptr;
};

class TlsContext {
 public:
  // Null, and why in `error`, when the authorities cannot be read.
  static std::unique_ptr<TlsContext> make(bool verify, const std::string& ca_file,
                                          std::string& error);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // A client side for one connection to `host` (name or literal). The caller owns it. `session`
  // outlives it.
  ssl_st* make_client(const std::string& host, TlsSession& session) const;

 private:
  explicit TlsContext(ssl_ctx_st* context) : context_(context) {}
  ssl_ctx_st* context_;
};

}  // namespace llmproxy::net
