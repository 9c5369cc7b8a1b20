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
std::optional<Error> find_api(Request& request) {
  const http::RequestHead& head = request.head;
  if (head.wants_upgrade) return client_error(400, "This server does not switch protocols.");
  std::string allow;
  request.endpoint = find_endpoint(head.method, head.path, allow);
  if (request.endpoint != nullptr) return std::nullopt;
  if (allow.empty()) return client_error(404, "Unknown path. See /v1/chat/completions.");
  request.error_headers = fmt::format("Allow: {}\r\n", allow);
  return client_error(405, fmt::format("This path answers {} only.", allow));
}

// 3 What is asked of which model? Its body is read whole first.
net::Task<std::optional<Error>> read_call(Request& request) {
  std::optional<Error> error = co_await request.body.read();
  if (error) co_return error;
  std::optional<Result<Call>> call;
  const auto read = [&request, &call] { call = request.endpoint->read_call(request.body.bytes()); };
  const bool is_read =
      co_await read_body(request.server, request.body.bytes(), MemoryBudget::Use::kRequest, read);
  if (!is_read) co_return no_memory();
  if (!call->ok()) co_return std::move(call->error());
  request.call = std::move(**call);
  request.evidence.choices = request.call.choices;
  if (request.call.is_stream && request.minor_version == 0) {
    co_return client_error(400, "Streaming needs HTTP/1.1.");
  }
  co_return std::nullopt;
}

// 4 Who serves it?
std::optional<Error> route(Request& request) {
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

// What the backend is asked beyond that.
net::Task<std::optional<Error>> edit_call(Request& request) {
  const auto edit = [&request] {
    request.splices =
        request.endpoint->edit_call(request.body.bytes(), request.call, request.backend->usage);
  };
  const bool is_read =
      co_await read_body(request.server, request.body.bytes(), MemoryBudget::Use::kRequest, edit);
  if (!is_read) co_return no_memory();
  co_return std::nullopt;
}

std::optional<Error> reserve_room(Request& request) {
  Ledger& ledger = request.server.parts().ledger;
  request.is_reserved = ledger.reserve(intent_of(request));
  if (request.is_reserved) return std::nullopt;
  Error error{503, Blame::kProxy, "The server cannot take on more work. Try again shortly."};
  error.code = "overloaded";
  error.retry_after_s = 1;
  error.detail = ledger.refusal();
  return error;
}

// Asks the ledger to record the stream before it begins. Once.
void open_intent(Request& request) {
  if (request.intent) return;
  const Intent intent = intent_of(request);
  request.intent.emplace(request.server.loop());
  try {
    request.server.parts().ledger.open(intent, may_bill_running(request), *request.intent);
  } catch (...) {
    request.intent.reset();  // nobody will be told
    throw;
  }
}

// 6 to 8
net::Task<std::optional<Error>> relay(Request& request, Exchange& exchange) {
  request.evidence.status = exchange.status;
  request.evidence.is_stream = exchange.is_stream && request.minor_version == 1;
  request.evidence.is_encoded = exchange.is_encoded;
  request.body.drop();
  if (!request.evidence.is_stream) co_return co_await relay_plain(request, exchange);
  open_intent(request);
  const bool is_recorded = co_await request.intent->is_durable();  // I1
  if (!is_recorded) {
    request.evidence.is_unrecorded = true;
    co_return after_sending(cannot_record());
  }
  co_await relay_stream(request, exchange);
  co_return std::nullopt;
}

// 5 to 8: call, reply, relay, settle.
net::Task<std::optional<Error>> forward(Request& request) {
  if (request.call.is_stream) open_intent(request);  // recorded while the backend thinks
  Exchange exchange;
  std::optional<Error> error = co_await run_exchange(request, exchange);
  if (!error) error = co_await relay(request, exchange);
  co_await settle(request);
  co_return error;
}

net::Task<std::optional<Error>> answer(Request& request) {
  std::optional<Error> error = find_api(request);
  if (error) co_return error;

  Result<std::shared_ptr<const Key>> key = co_await authenticate(
      request.head, request.server.parts().keys, request.server.loop(), request.session.interrupt);
  if (!key.ok()) co_return std::move(key.error());
  request.key = std::move(*key);

  error = request.body.check_size();
  if (error) co_return error;
  if (request.endpoint->answer != nullptr) {
    std::string body = request.endpoint->answer(*request.config);
    co_await send_json(request, 200, std::move(body), "");
    co_return std::nullopt;
  }

  error = co_await read_call(request);
  if (error) co_return error;
  error = route(request);
  if (error) co_return error;
  error = co_await edit_call(request);
  if (error) co_return error;
  error = reserve_room(request);
  if (error) co_return error;
  co_return co_await forward(request);
}

net::Task<void> fail(Request& request, const Error& error) {
  if (request.body.is_gone()) request.lose_client("client_gone");
  const bool is_shutdown = request.server.is_aborting() && error.blame == Blame::kProxy;
  request.end_as(is_shutdown ? "shutdown" : error.blame == Blame::kClient ? "refused" : "failed");
  request.detail = error.detail;
  request.status = error.status;
  co_await tell_error(request, error);
}

// A body nobody read stands between this request and the next on the connection. False: the
// connection closes.
net::Task<bool> end_body(Request& request) {
  if (!request.body.is_read() && request.keeps_alive()) co_await request.body.discard();
  const bool keeps_alive = request.keeps_alive();
  request.session.is_body_unread = !request.body.is_read();
  request.body.drop();
  co_return keeps_alive;
}

net::Task<bool> record(Request& request, bool was_unresolved) {
  Settlement settlement;
  settlement.intent = intent_of(request);
  if (request.intent) settlement.has_intent = co_await request.intent->is_durable();
  settlement.was_unresolved = was_unresolved;
  settlement.outcome = request.outcome;
  settlement.date_created = wall_now_ms();
  LedgerWait wait(request.server.loop());
  request.server.parts().ledger.settle(std::move(settlement), wait);
  co_return co_await wait.is_durable();
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
      time(wall_now_ms()),
      started(monotonic_now()),
      id(server.parts().ids.mint(time)),
      id_hex(id.hex()),
      minor_version(its_head.minor_version),
      is_head(its_head.method == "HEAD"),
      wants_keep_alive(its_head.keep_alive && its_head.minor_version == 1),
      body(of_session, its_head, config->limits) {}

net::Task<void> Request::send_to_client(std::span<iovec> parts) {
  if (is_client_gone) co_return;
  const Limits& limits = config->limits;
  const net::IoResult sent =
      co_await session.client.write_all(parts, limits.timeout_write, limits.body_rate_min);
  bytes_to_client += sent.bytes;
  if (!first_byte && sent.bytes > 0) first_byte = monotonic_now();
  if (sent.ok()) co_return;
  const bool is_shutdown = sent.status == net::IoStatus::kCancelled;
  const bool is_stalled = sent.status == net::IoStatus::kTimeout;
  lose_client(is_shutdown ? "shutdown" : is_stalled ? "client_stalled" : "client_gone");
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

net::Task<bool> settle(Request& request) {
  if (!request.is_reserved || request.is_settled) co_return true;
  if (request.intent) co_await request.intent->is_durable();  // the ledger points to it until then
  request.outcome = decide_outcome(request.evidence);
  const bool is_durable = co_await record(request, false);
  request.is_settled = true;  // not before: what throws is settled by who catches it
  const bool is_lost = !is_durable && request.outcome.kind != Outcome::Kind::kFree;
  if (is_lost) request.end_as("not_recorded");
  if (is_lost && !request.evidence.is_stream) {
    request.evidence.is_unrecorded = true;
    request.outcome = decide_outcome(request.evidence);
  }
  count_outcome(request);
  co_return !is_lost;
}

net::Task<void> settle_late(Request& request) {
  const Outcome outcome = decide_outcome(request.evidence);
  if (outcome.kind != Outcome::Kind::kBilled) co_return;
  request.outcome = outcome;
  request.server.counters().late_figures.add();
  co_await record(request, true);
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
        fmt::format("unresolved, and not recorded: id={}: {}", request.id_hex, bug.what()));
  }
  account(request);
}

}  // namespace

net::Task<bool> serve_request(Session& session, const http::RequestHead& head) {
  Request request(session, head);
  std::optional<Error> error;
  std::exception_ptr bug;
  try {
    error = co_await answer(request);
  } catch (...) {
    bug = std::current_exception();
  }
  if (bug != nullptr) {
    co_await settle_abandoned(request);
    std::rethrow_exception(bug);
  }
  if (error) co_await fail(request, *error);
  account(request);
  co_return co_await end_body(request);
}

}  // namespace llmproxy
