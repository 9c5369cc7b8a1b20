// OpenSSL client contexts.
#include "net/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "net/address.h"

namespace llmproxy::net {
namespace {

int on_new_session(ssl_st* ssl, ssl_session_st* session) {
  auto* keeper = static_cast<TlsSession*>(SSL_get_app_data(ssl));
  if (keeper == nullptr) return 0;
  keeper->keep(session);
  return 1;  // the reference is ours now
}

// The first of the errors that are queued: the others tell only who passed it on.
std::string first_error() {
  const unsigned long code = ERR_peek_error();
  ERR_clear_error();
  if (ERR_SYSTEM_ERROR(code)) return errno_text(ERR_GET_REASON(code));
  const char* const reason = ERR_reason_error_string(code);
  return reason == nullptr ? "unknown error" : reason;
}

}  // namespace

TlsSession::~TlsSession() {
  SSL_SESSION_free(session_);
}

void TlsSession::keep(ssl_session_st* session) {
  SSL_SESSION_free(std::exchange(session_, session));
}

std::unique_ptr<TlsContext> TlsContext::make(bool verify, const std::string& ca_file,
                                             std::string& error) {
  std::unique_ptr<TlsContext> made(new TlsContext(SSL_CTX_new(TLS_client_method())));
  SSL_CTX* context = made->context_;
  LLMPROXY_CHECK(context != nullptr);
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_verify(context, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, on_new_session);
  if (!verify) return made;
  ERR_clear_error();
  const int loaded = ca_file.empty() ? SSL_CTX_set_default_verify_paths(context)
                                     : SSL_CTX_load_verify_file(context, ca_file.c_str());
  if (loaded == 1) return made;
  error = first_error();
  return nullptr;
}

TlsContext::~TlsContext() {
  SSL_CTX_free(context_);
}

ssl_st* TlsContext::make_client(const std::string& host, TlsSession& session) const {
  SSL* ssl = SSL_new(context_);
  LLMPROXY_CHECK(ssl != nullptr);
  SSL_set_app_data(ssl, &session);
  if (Address::from_literal(host, 0)) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str());
  } else {
    SSL_set_tlsext_host_name(ssl, host.c_str());
    SSL_set1_host(ssl, host.c_str());
  }
  if (session.get() != nullptr) SSL_set_session(ssl, session.get());
  SSL_set_connect_state(ssl);
  return ssl;
}

}  // namespace llmproxy::net
