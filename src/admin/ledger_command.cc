// Lines are JSON, one object each; what is not exactly one of the commands is none.
#include "admin/ledger_command.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "api/json.h"
#include "api/json_edit.h"

namespace llmproxy {
namespace {

using Kind = LedgerCommand::Kind;

constexpr std::array<std::string_view, 4> kNames = {"status", "resolve", "requeue", "rebill"};
constexpr int kStatusOk = 200;
constexpr int kStatusWrong = 400;

LedgerAnswer answer_of(const std::optional<Error>& error, std::string message) {
  if (error) return {.status = error->status, .message = error->message};
  return {.status = kStatusOk, .message = std::move(message)};
}

LedgerAnswer tell_counts(const LedgerCounts& counts) {
  const bool holds =
      counts.accepted == counts.billed + counts.free + counts.unresolved + counts.in_flight;
  LedgerAnswer answer;
  answer.message =
      fmt::format("accepted {} = billed {} + free {} + unresolved {} + in flight {}: {}",
                  counts.accepted, counts.billed, counts.free, counts.unresolved, counts.in_flight,
                  holds ? "it adds up" : "IT DOES NOT ADD UP");
  const std::pair<std::string_view, uint64_t> numbers[] = {
      {"accepted", counts.accepted},
      {"billed", counts.billed},
      {"free", counts.free},
      {"unresolved", counts.unresolved},
      {"in_flight", counts.in_flight},
      {"late", counts.late},
      {"by_hand", counts.by_hand},
      {"recovered_billed", counts.recovered_billed},
      {"recovered_unresolved", counts.recovered_unresolved},
      {"delivered", counts.delivered},
      {"dead", counts.dead},
      {"lost", counts.lost},
      {"backlog", counts.backlog},
      {"bytes_used", counts.bytes_used},
      {"commits", counts.commits},
  };
  for (const auto& [name, number] : numbers)
    answer.counts += fmt::format(R"("{}":{},)", name, number);
  answer.counts = fmt::format(R"({{{}"adds_up":{}}})", answer.counts, holds);
  return answer;
}

LedgerAnswer resolve(Ledger& ledger, const LedgerCommand& command) {
  const std::string id = command.id->hex();
  if (!command.figure)
    return answer_of(ledger.resolve(*command.id, std::nullopt), fmt::format("{} is free", id));
  return answer_of(ledger.resolve(*command.id, command.figure),
                   fmt::format("{} is billed: prompt {}, completion {}", id,
                               command.figure->prompt_n, command.figure->completion_n));
}

LedgerAnswer requeue(Ledger& ledger, const LedgerCommand& command) {
  if (command.id) {
    return answer_of(ledger.requeue(*command.id),
                     fmt::format("{} is sent again under its id", command.id->hex()));
  }
  const Result<size_t> count = ledger.requeue_all();
  if (!count) return answer_of(count.error(), "");
  return answer_of(std::nullopt, fmt::format("{} dead events are sent again", *count));
}

LedgerAnswer rebill(Ledger& ledger, const LedgerCommand& command) {
  const Result<ObjectId> id = ledger.rebill(*command.id);
  if (!id) return answer_of(id.error(), "");
  return answer_of(std::nullopt, fmt::format("{} is billed anew as {}; make sure that the database "
                                             "holds no other bill for it",
                                             command.id->hex(), id->hex()));
}

// A member; an element that is nothing where there is none.
std::optional<std::string_view> text_of(simdjson::dom::element object, std::string_view name) {
  std::string_view text;
  if (object[name].get_string().get(text) != simdjson::SUCCESS) return std::nullopt;
  return text;
}

bool is_true(simdjson::dom::element object, std::string_view name) {
  bool value = false;
  return object[name].get_bool().get(value) == simdjson::SUCCESS && value;
}

bool is_there(simdjson::dom::element object, std::string_view name) {
  return object[name].error() == simdjson::SUCCESS;
}

// The members that a command needs, no fewer and none that contradict each other.
bool read_members(simdjson::dom::element object, LedgerCommand& command) {
  if (command.kind == Kind::kStatus) return true;
  if (const auto id = text_of(object, "id")) command.id = ObjectId::from_hex(*id);
  if (command.kind == Kind::kRequeue && is_true(object, "all")) return !is_there(object, "id");
  if (!command.id) return false;
  if (command.kind != Kind::kResolve) return true;
  const bool has_figure = is_there(object, "prompt_n") || is_there(object, "completion_n");
  if (is_true(object, "free")) return !has_figure;
  command.figure = read_figure(object, "prompt_n", "completion_n");
  return command.figure.has_value();
}

}  // namespace

LedgerAnswer run_command(Ledger& ledger, const LedgerCommand& command) {
  switch (command.kind) {
    case Kind::kStatus:
      return tell_counts(ledger.counts());
    case Kind::kResolve:
      return resolve(ledger, command);
    case Kind::kRequeue:
      return requeue(ledger, command);
    case Kind::kRebill:
      break;
  }
  return rebill(ledger, command);
}

std::string write_command(const LedgerCommand& command) {
  std::string line =
      fmt::format(R"({{"command":"{}")", kNames.at(static_cast<size_t>(command.kind)));
  if (command.id) line += fmt::format(R"(,"id":"{}")", command.id->hex());
  if (command.kind == Kind::kRequeue && !command.id) line += R"(,"all":true)";
  if (command.figure) {
    line += fmt::format(R"(,"prompt_n":{},"completion_n":{})", command.figure->prompt_n,
                        command.figure->completion_n);
  } else if (command.kind == Kind::kResolve) {
    line += R"(,"free":true)";
  }
  return line + "}";
}

std::optional<LedgerCommand> read_command(std::string_view line) {
  const JsonText text(line);
  if (!text.ok() || !text.root().is_object()) return std::nullopt;
  const auto name = text_of(text.root(), "command");
  for (size_t i = 0; name && i < kNames.size(); ++i) {
    if (*name != kNames.at(i)) continue;
    LedgerCommand command{.kind = static_cast<Kind>(i), .id = {}, .figure = {}};
    if (!read_members(text.root(), command)) return std::nullopt;
    return command;
  }
  return std::nullopt;
}

std::string write_answer(const LedgerAnswer& answer) {
  return fmt::format(R"({{"status":{},"message":{}{}{}}})", answer.status,
                     quote_json(answer.message), answer.counts.empty() ? "" : R"(,"counts":)",
                     answer.counts);
}

std::optional<LedgerAnswer> read_answer(std::string_view line) {
  const JsonText text(line);
  if (!text.ok()) return std::nullopt;
  int64_t status = 0;
  const auto message = text_of(text.root(), "message");
  if (text.root()["status"].get_int64().get(status) != simdjson::SUCCESS || !message)
    return std::nullopt;
  LedgerAnswer answer{.status = static_cast<int>(status), .message = std::string(*message)};
  simdjson::dom::element counts;
  if (text.root()["counts"].get(counts) == simdjson::SUCCESS)
    answer.counts = simdjson::minify(counts);
  return answer;
}

std::string answer_line(Ledger& ledger, std::string_view line) {
  const std::optional<LedgerCommand> command = read_command(line);
  if (!command) {
    return write_answer(
        {.status = kStatusWrong, .message = "no command that this version of the program knows"});
  }
  return write_answer(run_command(ledger, *command));
}

}  // namespace llmproxy
