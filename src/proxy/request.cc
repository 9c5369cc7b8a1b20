// The life of a request, top to bottom. Every arrow goes down once; nothing calls back up. Any
// Error ends up in one place: its detail in the log, its status and message with the client.
#include "proxy/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "proxy/access_line.h"
#include "proxy/authenticate.h"
#include "proxy/errors.h"
#include "proxy/exchange.h"
#include "proxy/read_body.h"
#include "proxy/relay.h"
#include "proxy/reply.h"

namespace llmproxy {
namespace {

Error client_error(int status, std::string message) {
  return {status, Blame::kClient, std::move(message)};
}

// 1 Which API?
MaybeError find_api(Request& request) {
  const http::RequestHead& head = request.head;
  if (head.wants_upgrade) return client_error(400, "This server does not switch protocols.");
  std::string allow;
  request.endpoint = find_endpoint(head.method, head.path, allow);
  if (request.endpoint != nullptr) return std::nullopt;
  if (allow.empty()) return client_error(404, "Unknown path. See /v1/chat/completions.");
  request.error_headers = fmt::format("Allow: {}\r\n", allow);
  return client_error(405, fmt::format("This path answers {} only.", allow));
}

// 3 What is asked of which model?
MaybeError read_call(Request& request) {
  Result<Call> call = request.endpoint->read_call(request.body.bytes());
  if (!call) return std::move(call.error());
  request.call = std::move(*call);
  request.evidence.choices = request.call.choices;
  if (request.call.is_stream && request.minor_version == 0) {
    return client_error(400, "Streaming needs HTTP/1.1.");
  }
  return std::nullopt;
}

// 4 Who serves it?
MaybeError route(Request& request) {
  request.backend = request.config->find_backend(request.call.model);
  if (request.backend != nullptr) {
    request.evidence.policy = request.backend->usage;
    return std::nullopt;
  }
  Error error = client_error(404, "The model does not exist or you do not have access to it.");
  error.code = "model_not_found";
  error.param = "model";
  return error;
}

// 3 and 4, and what the backend is asked beyond that: all that its body decides. Perhaps on another
// thread.
MaybeError understand(Request& request) {
  if (MaybeError error = read_call(request)) return error;
  if (MaybeError error = route(request)) return error;
  request.splices =
      request.endpoint->edit_call(request.body.bytes(), request.call, request.backend->usage);
  return std::nullopt;
}

MaybeError reserve_room(Request& request) {
  Ledger& ledger = request.server.parts().ledger;
  request.is_reserved = ledger.reserve(intent_of(request));
  if (request.is_reserved) return std::nullopt;
  Error error{503, Blame::kProxy, "The server cannot take on more work. Try again shortly."};
  error.code = "overloaded";
  error.retry_after_s = 1;
  error.detail = ledger.refusal();
  return error;
}

// 1 to 4: all that is decided before a backend is asked.
net::Task<MaybeError> prepare(Request& request) {
  if (MaybeError error = find_api(request)) co_return error;

  Result<std::shared_ptr<const Key>> key = co_await authenticate(
      request.head, request.server.parts().keys, request.server.loop(), request.session.interrupt);
  if (!key.ok()) co_return std::move(key.error());
  request.key = std::move(*key);

  MaybeError error = request.body.check_size();
  if (error || request.endpoint->answer != nullptr) co_return error;

  error = co_await request.body.read();
  if (error) co_return error;
  const auto read = [&request, &error] { error = understand(request); };
  const bool is_read =
      co_await read_body(request.server, request.body.bytes(), MemoryBudget::Use::kRequest, read);
  if (!is_read) co_return no_memory();
  if (error) co_return error;
  co_return reserve_room(request);
}

// Asks the ledger to record the stream before it begins. Once.
void open_intent(Request& request) {
  if (request.intent) return;
  const Intent intent = intent_of(request);
  request.intent.emplace(request.server.loop());
  try {
    request.server.parts().ledger.open(intent, may_bill_running(request), *request.intent,
                                       Ledger::Wake::kLater);
    request.server.wake_ledger();
  } catch (...) {
    request.intent.reset();  // nobody will be told
    throw;
  }
}

net::Task<MaybeError> relay_recorded(Request& request, Exchange& exchange) {
  open_intent(request);
  return relay_stream(request, exchange);
}

// 6 to 8
net::Task<MaybeError> relay(Request& request, Exchange& exchange) {
  request.evidence.status = exchange.status;
  request.evidence.is_stream = exchange.is_stream && request.minor_version == 1;
  request.evidence.is_encoded = exchange.is_encoded;
  request.body.drop();
  return request.evidence.is_stream ? relay_recorded(request, exchange)
                                    : relay_plain(request, exchange);
}

// 5 to 8: call, reply, relay, settle.
net::Task<MaybeError> forward(Request& request) {
  if (request.call.is_stream) open_intent(request);  // recorded while the backend thinks
  Exchange exchange;
  MaybeError error = co_await run_exchange(request, exchange);
  if (!error) error = co_await relay(request, exchange);
  co_await settle(request);
  co_return error;
}

net::Task<MaybeError> answer_alone(Request& request) {
  std::string body = request.endpoint->answer(*request.config);
  co_await send_json(request, 200, std::move(body), "");
  co_return std::nullopt;
}

// What is asked of a model goes to its backend; the rest the proxy knows itself.
net::Task<MaybeError> answer(Request& request) {
  return request.endpoint->answer == nullptr ? forward(request) : answer_alone(request);
}

net::Task<void> fail(Request& request, const Error& error) {
  if (request.body.is_gone()) request.lose_client("client_gone");
  const bool is_shutdown = request.server.is_aborting() && error.blame == Blame::kProxy;
  request.end_as(is_shutdown ? "shutdown" : error.blame == Blame::kClient ? "refused" : "failed");
  request.detail = error.detail;
  request.status = error.status;
  co_await tell_error(request, error);
}

// False: the connection closes.
bool end_body(Request& request) {
  const bool keeps_alive = request.keeps_alive();
  request.session.is_body_unread = !request.body.is_read();
  request.body.drop();
  return keeps_alive;
}

void record(Request& request, bool has_intent, bool was_unresolved, Waiter& waiter) {
  request.server.parts().ledger.settle({.intent = intent_of(request),
                                        .has_intent = has_intent,
                                        .was_unresolved = was_unresolved,
                                        .outcome = request.outcome,
                                        .date_created = request.server.loop().wall_now()},
                                       waiter, Ledger::Wake::kLater);
  request.server.wake_ledger();
}

void count_outcome(const Request& request) {
  Counters& counters = request.server.counters();
  switch (request.outcome.kind) {
    case Outcome::Kind::kBilled:
      counters.billed.add();
      break;
    case Outcome::Kind::kFree:
      counters.free.add();
      break;
    case Outcome::Kind::kUnresolved:
      counters.unresolved.add();
      break;
  }
  const Evidence& evidence = request.evidence;
  if (evidence.was_sent && !evidence.has_head) counters.no_reply.add();
}

// 9 Metrics and one access line.
void account(const Request& request) {
  Log& log = request.server.parts().log;
  const bool is_odd = request.is_settled && request.outcome.is_warning;
  const LogLevel level = is_odd ? LogLevel::kWarning : LogLevel::kInfo;
  if (!log.is_on(level)) return;
  AccessLine line;
  append_access_line(line, request);
  log.write(level, {line.data(), line.size()});
}

}  // namespace

Request::Request(Session& of_session, const http::RequestHead& its_head)
    : session(of_session),
      server(of_session.server),
      head(its_head),
      config(server.config()),
      time(server.loop().wall_now()),
      started(server.loop().now()),
      id(server.parts().ids.mint(time)),
      id_text(id.hex_text()),
      minor_version(its_head.minor_version),
      is_head(its_head.method == "HEAD"),
      wants_keep_alive(its_head.keep_alive && its_head.minor_version == 1),
      body(of_session, its_head, config->limits) {}

Request::Sending::Sending(Request& request, std::span<iovec> parts)
    : request_(request),
      write_(request.session.client.write_all(parts, request.config->limits.timeout_write,
                                              request.config->limits.body_rate_min)) {}

void Request::Sending::await_resume() {
  if (request_.is_client_gone) return;
  const net::IoResult sent = write_.await_resume();
  request_.bytes_to_client += sent.bytes;
  if (!request_.first_byte && sent.bytes > 0) request_.first_byte = monotonic_now();
  if (sent.ok()) return;
  const bool is_shutdown = sent.status == net::IoStatus::kCancelled;
  const bool is_stalled = sent.status == net::IoStatus::kTimeout;
  request_.lose_client(is_shutdown ? "shutdown" : is_stalled ? "client_stalled" : "client_gone");
}

bool Request::keeps_alive() const {
  return wants_keep_alive && !is_client_gone && !is_cut && body.may_discard() &&
         !server.is_draining();
}

void Request::lose_client(std::string_view how) {
  if (std::exchange(is_client_gone, true)) return;
  server.counters().clients_gone.add();
  end_as(how);
}

LedgerWait::Told await_intent(Request& request) {
  if (!request.intent->is_told()) {
    request.server.parts().ledger.await(*request.intent, Ledger::Wake::kLater);
    request.server.wake_ledger();
  }
  return request.intent->is_durable();
}

Intent intent_of(const Request& request) {
  Intent intent;
  intent.id = request.id;
  intent.time = request.time;
  intent.user_id = request.key->user_id;
  intent.api_key_id = request.key->id;
  intent.model = request.call.model;
  intent.backend = request.backend->name;
  return intent;
}

bool may_bill_running(const Request& request) {
  return request.evidence.policy == UsagePolicy::kContinuous && request.evidence.choices <= 1;
}

namespace {

net::Task<bool> settle_reserved(Request& request) {
  bool has_intent = false;
  if (request.intent) {  // it is pointed to
    Ledger& ledger = request.server.parts().ledger;
    if (!request.intent->is_told() && ledger.withdraw(*request.intent)) {
      request.intent.reset();
    } else {
      has_intent = co_await await_intent(request);
    }
  }
  request.outcome = decide_outcome(request.evidence);
  LedgerWait wait(request.server.loop());
  record(request, has_intent, false, wait);
  const bool is_durable = co_await wait.is_durable();
  request.is_settled = true;  // not before: what throws is settled by who catches it
  const bool is_lost = !is_durable && request.outcome.kind != Outcome::Kind::kFree;
  if (is_lost) request.end_as("not_recorded");
  if (is_lost && !has_intent) {  // nothing of it was sent
    request.evidence.is_unrecorded = true;
    request.outcome = decide_outcome(request.evidence);
  }
  count_outcome(request);
  co_return !is_lost;
}

}  // namespace

net::Step<bool> settle(Request& request) {
  if (!request.is_reserved || request.is_settled) return true;
  return settle_reserved(request);
}

net::Task<void> settle_late(Request& request) {
  const Outcome outcome = decide_outcome(request.evidence);
  if (outcome.kind != Outcome::Kind::kBilled) co_return;
  request.outcome = outcome;
  request.server.counters().late_figures.add();
  bool has_intent = false;
  if (request.intent) has_intent = co_await await_intent(request);
  LedgerWait wait(request.server.loop());
  record(request, has_intent, true, wait);
  co_await wait.is_durable();
}

namespace {

// An exception took the frames of `answer`: the connection goes, the bill must not.
net::Task<void> settle_abandoned(Request& request) {
  request.evidence.is_abandoned = true;
  request.end_as("bug");
  try {
    co_await settle(request);
  } catch (const std::exception& bug) {
    request.server.parts().log.announce(
        LogLevel::kError,
        fmt::format("unresolved, and not recorded: id={}: {}", request.id_hex(), bug.what()));
  }
  account(request);
}

}  // namespace

net::Task<bool> serve_request(Session& session, const http::RequestHead& head) {
  Request request(session, head);
  MaybeError error;
  std::exception_ptr bug;
  try {
    error = co_await prepare(request);
    if (!error) error = co_await answer(request);
  } catch (...) {
    bug = std::current_exception();
  }
  if (bug != nullptr) {
    co_await settle_abandoned(request);
    std::rethrow_exception(bug);
  }
  if (error) co_await fail(request, *error);
  account(request);
  // What nobody read stands between this request and the next one.
  if (request.keeps_alive()) co_await request.body.discard();
  co_return end_body(request);
}

}  // namespace llmproxy
