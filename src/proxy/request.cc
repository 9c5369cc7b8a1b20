// The life of a request, top to bottom. Every arrow goes down once; nothing calls back up. Any
// Error ends up in one place: its detail in the log, its status and message with the client.
#include "proxy/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "proxy/authenticate.h"
#include "proxy/exchange.h"
#include "proxy/ledger_wait.h"
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
  Result<Call> call = request.endpoint->read_call(request.body.bytes());
  if (!call.ok()) co_return std::move(call.error());
  request.call = std::move(*call);
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

std::optional<Error> reserve_room(Request& request) {
  request.is_reserved = request.server.parts().ledger.reserve();
  if (request.is_reserved) return std::nullopt;
  Error error{503, Blame::kProxy, "The server cannot take on more work. Try again shortly."};
  error.code = "overloaded";
  error.retry_after_s = 1;
  error.detail = "no room in the ledger: events wait for the database";
  return error;
}

// 5 to 8: call, reply, relay, settle.
net::Task<std::optional<Error>> forward(Request& request) {
  LedgerWait intent(request.server.loop());
  request.has_intent = request.call.is_stream;
  if (request.has_intent) request.server.parts().ledger.open(intent_of(request), intent);
  Exchange exchange;
  std::optional<Error> error = co_await run_exchange(request, exchange);
  const bool is_stream = !error && exchange.is_stream && request.minor_version == 1;
  if (is_stream && !request.has_intent) {
    request.has_intent = true;
    request.server.parts().ledger.open(intent_of(request), intent);
  }
  const bool is_recorded = !request.has_intent || co_await intent.durable;  // I1
  request.evidence.status = exchange.status;
  request.evidence.is_stream = is_stream;
  if (!error && is_stream && !is_recorded) {
    error = Error{503, Blame::kProxy, "The server cannot record its work at the moment."};
  }
  if (!error) request.body.drop();
  if (!error && is_stream) {
    co_await relay_stream(request, exchange);
  } else if (!error) {
    error = co_await relay_plain(request, exchange);
  }
  co_await settle(request);
  request.session.backend_socket = nullptr;
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
  error = reserve_room(request);
  if (error) co_return error;
  co_return co_await forward(request);
}

net::Task<void> fail(Request& request, const Error& error) {
  if (request.ended == "ok") request.ended = error.blame == Blame::kClient ? "refused" : "failed";
  request.detail = error.detail;
  if (request.body.is_gone()) request.lose_client("client_gone");
  request.status = error.status;
  request.keeps_alive = request.keeps_alive && request.body.may_discard();
  co_await tell_error(request, error);
}

// A body nobody read stands between this request and the next on the connection.
net::Task<void> clear_body(Request& request) {
  if (!request.body.is_read() && request.keeps_alive) {
    request.keeps_alive = co_await request.body.discard();
  }
  request.session.is_body_unread = !request.body.is_read();
  request.body.drop();
}

net::Task<void> record(Request& request, bool was_unresolved) {
  Settlement settlement;
  settlement.intent = intent_of(request);
  settlement.has_intent = request.has_intent;
  settlement.was_unresolved = was_unresolved;
  settlement.outcome = request.outcome;
  settlement.date_created = wall_now_ms();
  LedgerWait wait(request.server.loop());
  request.server.parts().ledger.settle(std::move(settlement), wait);
  co_await wait.durable;
}

// A value of the access line: in quotes where it would not stand as one word.
std::string word(std::string_view value) {
  const bool is_plain = !value.empty() && std::ranges::all_of(value, [](unsigned char c) {
    return c > ' ' && c != '"' && c != '=' && c != '\\' && c < 0x7f;
  });
  return is_plain ? std::string(value) : quote_json(value);
}

// 9 Metrics and one access line.
void account(const Request& request) {
  Log& log = request.server.parts().log;
  const bool is_odd = request.is_settled && request.outcome.is_warning;
  const LogLevel level = is_odd ? LogLevel::kWarning : LogLevel::kInfo;
  if (!log.is_on(level)) return;
  const auto ms_until = [&](MonotonicTime time) {
    return std::chrono::duration<double, std::milli>(time - request.started).count();
  };
  fmt::memory_buffer line;
  const auto out = std::back_inserter(line);
  const bool is_billed = request.is_settled && request.outcome.kind == Outcome::Kind::kBilled;
  fmt::format_to(out, "request id={} path={} key={} user={} model={} status={} bytes={}",
                 request.id_hex, request.endpoint != nullptr ? request.endpoint->path : "-",
                 request.key != nullptr ? word(request.key->id) : "-",
                 request.key != nullptr ? word(request.key->user_id.text) : "-",
                 request.backend != nullptr ? word(request.backend->name) : "-", request.status,
                 request.bytes_to_client);
  fmt::format_to(out, " backend={}", request.backend != nullptr ? request.backend->authority : "-");
  fmt::format_to(out, " first_byte_ms={:.1f} duration_ms={:.1f}",
                 ms_until(request.first_byte.value_or(monotonic_now())), ms_until(monotonic_now()));
  if (is_billed) {
    fmt::format_to(out, " prompt_n={} completion_n={}", request.outcome.figure.prompt_n,
                   request.outcome.figure.completion_n);
  } else {
    fmt::format_to(out, " prompt_n=- completion_n=-");
  }
  fmt::format_to(out, " end={}", request.ended);
  if (request.is_settled) fmt::format_to(out, " bill=\"{}\"", request.outcome.reason);
  if (!request.detail.empty()) fmt::format_to(out, " detail={}", quote_json(request.detail));
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
      body(of_session, its_head, config->limits),
      keeps_alive(its_head.keep_alive && its_head.minor_version == 1) {}

net::Task<void> Request::send_to_client(std::span<iovec> parts) {
  if (is_client_gone) co_return;
  const net::IoResult sent = co_await session.client.write_all(parts, config->limits.timeout_write);
  bytes_to_client += sent.bytes;
  if (!first_byte && sent.bytes > 0) first_byte = monotonic_now();
  if (sent.ok()) co_return;
  lose_client(sent.status == net::IoStatus::kTimeout ? "client_stalled" : "client_gone");
}

bool Request::decide_keep_alive() {
  keeps_alive = keeps_alive && !server.is_draining();
  return keeps_alive;
}

void Request::lose_client(std::string_view how) {
  if (std::exchange(is_client_gone, true)) return;
  server.counters().clients_gone.add();
  ended = how;
  keeps_alive = false;
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

net::Task<void> settle(Request& request) {
  if (!request.is_reserved || std::exchange(request.is_settled, true)) co_return;
  request.outcome = decide_outcome(request.evidence);
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
  co_await record(request, false);
}

net::Task<void> settle_late(Request& request) {
  const Outcome outcome = decide_outcome(request.evidence);
  if (outcome.kind != Outcome::Kind::kBilled) co_return;
  request.outcome = outcome;
  request.server.counters().late_figures.add();
  co_await record(request, true);
}

net::Task<bool> serve_request(Session& session, const http::RequestHead& head) {
  Request request(session, head);
  std::optional<Error> error;
  std::exception_ptr bug;
  try {
    error = co_await answer(request);
  } catch (...) {
    bug = std::current_exception();
  }
  if (bug != nullptr) {  // the connection goes, the bill must not
    session.backend_socket = nullptr;
    request.evidence.is_abandoned = true;
    request.ended = "bug";
    co_await settle(request);
    account(request);
    std::rethrow_exception(bug);
  }
  if (error) co_await fail(request, *error);
  account(request);
  co_await clear_body(request);
  co_return request.keeps_alive;
}

}  // namespace llmproxy
