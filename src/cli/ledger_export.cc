// Events as lines: JSON objects, or CSV as RFC 4180 has it.
#include <fmt/format.h>

#include <ostream>

#include "billing/ledger_words.h"
#include "cli/ledger.h"
#include "cli/print.h"
#include "cli/when.h"

namespace llmproxy {
namespace {

constexpr std::string_view kCsvHead =
    "_id,date_created,user_id,api_key_id,model,prompt_n,completion_n,state,origin\r\n";

std::string_view origin_name(Origin origin) {
  switch (origin) {
    case Origin::kRequest:
      return "request";
    case Origin::kRecovered:
      return "recovered";
    case Origin::kLate:
      return "late";
    case Origin::kByHand:
      break;
  }
  return "by_hand";
}

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) quoted.append(c == '"' ? 2 : 1, c);
  return quoted + '"';
}

std::string csv_line(const Bill& bill) {
  const Event& event = bill.event;
  return fmt::format("{},{},{},{},{},{},{},{},{}\r\n", event.id.hex(),
                     format_utc(event.date_created), csv_field(event.user_id.text),
                     csv_field(event.api_key_id), csv_field(event.model), event.prompt_n,
                     event.completion_n, state_name(bill.state), origin_name(bill.origin));
}

std::string json_line(const Bill& bill) {
  std::string json = describe(bill.event);
  json.pop_back();
  return fmt::format(R"({},"state":"{}","origin":"{}"}})", json, state_name(bill.state),
                     origin_name(bill.origin)) +
         '\n';
}

}  // namespace

int ledger_export(const LedgerShell& shell) {
  const LedgerArguments& arguments = shell.arguments;
  const WallMs now = wall_now_ms();
  const Result<WallMs> since = parse_since(arguments.since, now);
  if (!since) return fail(shell.err, kExitUsage, "--since: " + since.error().message);
  const Result<WallMs> until =
      arguments.until.empty() ? Result<WallMs>(INT64_MAX) : parse_since(arguments.until, now);
  if (!until) return fail(shell.err, kExitUsage, "--until: " + until.error().message);
  const bool is_csv = arguments.format == "csv";
  if (!is_csv && arguments.format != "ndjson")
    return fail(shell.err, kExitUsage, "--format: ndjson or csv was expected");
  int code = 0;
  const auto survey = look_at_ledger(shell, true, code);
  if (!survey) return code;
  if (is_csv) shell.out << kCsvHead;
  uint64_t count = 0;
  const auto error = read_bills(*survey, [&](const Bill& bill) {
    if (bill.event.date_created < *since || bill.event.date_created >= *until) return;
    shell.out << (is_csv ? csv_line(bill) : json_line(bill));
    ++count;
  });
  if (error) return fail(shell.err, *error);
  code = flush_or_fail(shell.out, shell.err, "the events");
  if (code != 0) return code;
  shell.err << fmt::format("{} events\n", count);
  return 0;
}

}  // namespace llmproxy
