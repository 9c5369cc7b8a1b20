// The call to the backend, up to the head of its reply. Resends only what is certainly safe.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/head.h"
#include "net/backend_pool.h"
#include "net/interrupt.h"
#include "net/task.h"
#include "proxy/request.h"

namespace llmproxy {

// The reply's head as far as relaying needs it, and the connection its body comes from.
struct Exchange {
  std::unique_ptr<net::BackendConnection> connection;
  std::optional<net::Interrupt::Guard> guard;  // of the connection's waits; goes before it
  std::string_view secret;                     // the backend's token
  int status = 0;
  bool is_stream = false;
  bool is_encoded = false;
  bool has_no_body = false;
  bool is_chunked = false;
  std::optional<uint64_t> content_length;
  bool keeps_alive = false;
  Milliseconds idle_limit = net::BackendPool::kIdleMax;
  bool has_cache_control = false;
  std::string head;  // for the client, but for framing and connection: whole lines, no empty one

  void close();
};

// Connects or takes a kept connection, sends, reads the head. Errors: 502, 504, and 503 while the
// proxy ends. Sets request.evidence.was_sent and has_head.
net::Task<MaybeError> run_exchange(Request& request, Exchange& exchange);

// Gives the connection back to the pool where it may serve again, else closes it.
void end_exchange(Request& request, Exchange& exchange, bool is_clean);

}  // namespace llmproxy
