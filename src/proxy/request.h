// One request from its first byte to its bill: the state that its steps share.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/endpoint.h"
#include "base/result.h"
#include "billing/ledger.h"
#include "billing/object_id.h"
#include "billing/outcome.h"
#include "http/head.h"
#include "net/task.h"
#include "proxy/ledger_wait.h"
#include "proxy/request_body.h"
#include "proxy/session.h"

namespace llmproxy {

struct Request {
  Request(Session& session, const http::RequestHead& head);

  // To be awaited. Writes to the client unless it is gone; a write that fails makes it gone. Counts
  // bytes and the time of the first one.
  class Sending;
  Sending send_to_client(std::span<iovec> parts);

  // Whether the connection serves another request: the one place that decides it. Asked when the
  // head of the answer is written, and at the end.
  bool keeps_alive() const;

  // The client is no more: its answer is read and billed all the same.
  void lose_client(std::string_view how);

  // The first that is told stands; what comes later may only follow from it.
  void end_as(std::string_view how) {
    if (ended == "ok") ended = how;
  }

  Session& session;
  Server& server;
  const http::RequestHead& head;               // until body.drop()
  const std::shared_ptr<const Config> config;  // a reload does not change it
  const WallMs time;
  const MonotonicTime started;
  const ObjectId id;  // of the event, of the call, of the log line
  const ObjectId::HexText id_text;
  std::string_view id_hex() const { return {id_text.data(), id_text.size()}; }
  const int minor_version;
  const bool is_head;  // HEAD: the answer has no body (RFC 9110, section 9.3.2)

  const bool wants_keep_alive;

  RequestBody body;
  const Endpoint* endpoint = nullptr;
  std::shared_ptr<const Key> key;
  Call call;
  const Backend* backend = nullptr;
  std::vector<Splice> splices;  // of the call's body
  std::string error_headers;    // Allow

  bool is_reserved = false;  // there is room for it in the ledger, and so it must be settled
  std::optional<LedgerWait> intent;  // asked for; settle() waits for it, whatever happens
  bool is_settled = false;
  Evidence evidence;
  Outcome outcome;

  // For the access line.
  int status = 0;
  uint64_t bytes_to_client = 0;
  std::optional<MonotonicTime> first_byte;
  bool is_client_gone = false;
  bool is_cut = false;  // the answer has no end that another one could follow
  std::string_view ended = "ok";
  std::string detail;
};

class Request::Sending {
 public:
  Sending(Request& request, std::span<iovec> parts);
  bool await_ready() { return request_.is_client_gone || write_.await_ready(); }
  bool await_suspend(std::coroutine_handle<> waiting) { return write_.await_suspend(waiting); }
  void await_resume();

 private:
  Request& request_;
  net::Socket::Write write_;
};

inline Request::Sending Request::send_to_client(std::span<iovec> parts) {
  return {*this, parts};
}

// The whole way. False: the connection closes after it.
net::Task<bool> serve_request(Session& session, const http::RequestHead& head);

// Whether its intent, which was asked for, is durable. To be awaited.
LedgerWait::Told await_intent(Request& request);

// Decides the outcome of a request that has room in the ledger, and waits until it is durable.
// Once. False: it matters, and cannot be made durable. A plain reply must not be sent then, and is
// free; a stream must not come to its end.
net::Step<bool> settle(Request& request);

// Bills a request that was settled as unresolved, now that its evidence holds a figure. Once.
net::Task<void> settle_late(Request& request);

// What the ledger keeps of a request before its end. The same at every call.
Intent intent_of(const Request& request);

// Its running figures make its bill if no final one comes (billing/outcome).
bool may_bill_running(const Request& request);

}  // namespace llmproxy
