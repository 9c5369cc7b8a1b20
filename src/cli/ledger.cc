// What shows: from the files alone, so that a hanging or dead owner hides nothing.
#include "cli/ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <system_error>

#include "admin/control.h"
#include "api/json_edit.h"
#include "billing/ledger_words.h"
#include "cli/check.h"
#include "cli/print.h"

namespace llmproxy {
namespace {

constexpr Milliseconds kStatusMax{5'000};  // for the owner to tell its counts
constexpr int kStatusUnavailable = 503, kStatusNotFound = 404, kStatusConflict = 409;

std::string_view kind_name(DeadRecord::Kind kind) {
  return kind == DeadRecord::Kind::kWithheld ? "withheld" : "refused";
}

// JSON object `json` with more members.
std::string with_members(std::string json, std::string_view members) {
  json.pop_back();
  return fmt::format("{},{}}}", json, members);
}

void print_array(const std::vector<std::string>& values, std::ostream& out) {
  out << '[';
  const char* separator = "\n  ";
  for (const std::string& value : values) {
    out << separator << json_for_terminal(value);
    separator = ",\n  ";
  }
  out << (values.empty() ? "]\n" : "\n]\n");
}

struct Status {
  const Survey& survey;
  std::optional<Event> oldest;
  std::optional<LedgerAnswer> owner;  // what it answered
  std::string owner_problem;          // why it did not
  WallMs now = 0;

  int64_t lag_s() const {
    return oldest ? std::max<int64_t>(0, (now - oldest->date_created) / 1'000) : 0;
  }
};

std::string status_json(const Status& status) {
  const Survey& survey = status.survey;
  const LedgerState::Totals& totals = survey.state.totals();
  const std::string oldest =
      status.oldest ? quote_json(format_utc(status.oldest->date_created)) : "null";
  const std::string life =
      status.owner && !status.owner->counts.empty() ? status.owner->counts : "null";
  return fmt::format(
      R"({{"database":{},"segments":{},"bytes":{},"quarantined_files":{},"first_record":{},)"
      R"("last_record":{},"settled_record":{},"waiting":{},"oldest_waiting":{},"lag_s":{},)"
      R"("open":{},"unresolved":{},"dead":{},"recorded":{{"billed":{},"free":{},"unresolved":{},)"
      R"("dead":{},"recovered":{},"late":{},"by_hand":{}}},"this_life":{}}})",
      quote_json(survey.database), survey.views.size(), survey.bytes, survey.quarantined,
      survey.first_sequence(), survey.state.last_sequence(), survey.state.mark(), survey.backlog,
      oldest, status.lag_s(), survey.state.open().size(), survey.state.unresolved().size(),
      survey.state.dead().size(), totals.billed, totals.free, totals.unresolved, totals.dead,
      totals.recovered, totals.late, totals.by_hand, life);
}

void print_status(const Status& status, const std::string& directory, std::ostream& out) {
  const Survey& survey = status.survey;
  const LedgerState::Totals& totals = survey.state.totals();
  std::string waiting = fmt::format("{} events", survey.backlog);
  if (status.oldest) {
    waiting += fmt::format("; the oldest of {}, {} s ago", format_utc(status.oldest->date_created),
                           status.lag_s());
  }
  std::string files = fmt::format("{} segments, {:.1f} MiB in all", survey.views.size(),
                                  static_cast<double>(survey.bytes) / (1 << 20));
  if (survey.quarantined > 0) files += fmt::format(", {} in quarantine", survey.quarantined);
  const std::vector<std::vector<std::string>> rows = {
      {"ledger", directory},
      {"database", survey.database.empty() ? "none yet" : survey.database},
      {"files", files},
      {"records",
       fmt::format("{} to {}; settled with the database up to {}", survey.first_sequence(),
                   survey.state.last_sequence(), survey.state.mark())},
      {"waiting", waiting},
      {"open", fmt::format("{} streams", survey.state.open().size())},
      {"unresolved", fmt::format("{} requests", survey.state.unresolved().size())},
      {"dead", fmt::format("{} events", survey.state.dead().size())},
      {"recorded", fmt::format("billed {}, free {}, unresolved {}; of them recovered {}, late {}, "
                               "by hand {}; dead {}",
                               totals.billed, totals.free, totals.unresolved, totals.recovered,
                               totals.late, totals.by_hand, totals.dead)},
      {"this life", status.owner ? status.owner->message : status.owner_problem},
  };
  print_table(rows, out);
}

}  // namespace

std::string LedgerShell::directory() const {
  if (!arguments.directory.empty()) return arguments.directory;
  return (std::filesystem::path(config.data_dir) / "ledger").native();
}

int exit_code(const Error& error) {
  if (error.status == kStatusUnavailable) return kExitTryAgain;
  if (error.status == kStatusNotFound || error.status == kStatusConflict) return kExitNotFound;
  return error.status == kExitConfig ? kExitConfig : kExitDisk;
}

int fail(std::ostream& err, const Error& error) {
  return fail(err, exit_code(error), error.message);
}

std::optional<Survey> look_at_ledger(const LedgerShell& shell, bool tells, int& code) {
  std::string problem;
  const std::string path = shell.directory();
  const auto directory = open_directory_to_read(path, problem);
  if (directory == nullptr) {
    std::error_code ignored;
    const bool is_there = std::filesystem::exists(path, ignored);
    code = fail(shell.err, is_there ? kExitDisk : kExitNotFound,
                fmt::format("the ledger {}: {}", path, problem));
    return std::nullopt;
  }
  Result<Survey> survey = survey_ledger(*directory);
  if (!survey) {
    code = fail(shell.err, survey.error());
    return std::nullopt;
  }
  if (tells) {
    for (const std::string& alarm : survey->alarms) shell.err << "alarm: " << alarm << '\n';
    for (const std::string& note : survey->notes) shell.err << "note: " << note << '\n';
  }
  return std::move(*survey);
}

int ledger_status(const LedgerShell& shell) {
  int code = 0;
  const auto survey = look_at_ledger(shell, true, code);
  if (!survey) return code;
  Status status{.survey = *survey, .oldest = {}, .owner = {}, .owner_problem = {}};
  const auto oldest = find_oldest_waiting(*survey);
  if (!oldest) return fail(shell.err, oldest.error());
  status.oldest = *oldest;
  status.now = wall_now_ms();
  std::string answer;
  bool was_said = false;
  if (ask_control(control_path(shell.directory()), write_command({}), kStatusMax, answer, was_said))
    status.owner = read_answer(answer);
  if (!status.owner)
    status.owner_problem = fmt::format("no owner answers ({})", was_said ? "it is busy" : answer);
  if (shell.arguments.is_json) {
    shell.out << json_for_terminal(status_json(status)) << '\n';
  } else {
    print_status(status, shell.directory(), shell.out);
  }
  return flush_or_fail(shell.out, shell.err, "the status");
}

int ledger_unresolved(const LedgerShell& shell) {
  int code = 0;
  const auto survey = look_at_ledger(shell, true, code);
  if (!survey) return code;
  if (shell.arguments.is_json) {
    std::vector<std::string> values;
    for (const auto& [id, one] : survey->state.unresolved()) values.push_back(describe(one.record));
    print_array(values, shell.out);
  } else {
    std::vector<std::vector<std::string>> rows = {
        {"ID", "STARTED", "USER", "KEY", "MODEL", "BACKEND", "REASON"}};
    for (const auto& [id, one] : survey->state.unresolved()) {
      const Intent& intent = one.record.intent;
      rows.push_back({id.hex(), format_utc(intent.time), intent.user_id.text, intent.api_key_id,
                      intent.model, intent.backend, one.record.reason});
    }
    print_table(rows, shell.out);
  }
  return flush_or_fail(shell.out, shell.err, "the list");
}

int ledger_dead(const LedgerShell& shell) {
  if (shell.arguments.requeue || shell.arguments.rebill) return change_dead(shell);
  int code = 0;
  const auto survey = look_at_ledger(shell, true, code);
  if (!survey) return code;
  if (shell.arguments.is_json) {
    std::vector<std::string> values;
    for (const auto& [id, one] : survey->state.dead()) {
      values.push_back(
          with_members(describe(one.record.event),
                       fmt::format(R"("kind":"{}","reason":{})", kind_name(one.record.kind),
                                   quote_json(one.record.reason))));
    }
    print_array(values, shell.out);
  } else {
    std::vector<std::vector<std::string>> rows = {
        {"ID", "DATE", "USER", "KEY", "MODEL", "PROMPT", "COMPLETION", "KIND", "REASON"}};
    for (const auto& [id, one] : survey->state.dead()) {
      const Event& event = one.record.event;
      rows.push_back({id.hex(), format_utc(event.date_created), event.user_id.text,
                      event.api_key_id, event.model, std::to_string(event.prompt_n),
                      std::to_string(event.completion_n), std::string(kind_name(one.record.kind)),
                      one.record.reason});
    }
    print_table(rows, shell.out);
  }
  return flush_or_fail(shell.out, shell.err, "the list");
}

}  // namespace llmproxy
