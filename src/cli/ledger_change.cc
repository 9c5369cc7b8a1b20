// What a person decides, said to the running owner; on a stopped ledger said to one that is opened
// for it, after the recovery that the next start would have made.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <ostream>
#include <system_error>

#include "admin/control.h"
#include "billing/recovery.h"
#include "cli/ledger.h"
#include "cli/print.h"

namespace llmproxy {
namespace {

constexpr Milliseconds kAnswerMax{60'000};  // of the owner: many events, or a search of all files
constexpr Milliseconds kOwnerPause{100};    // it may just be starting, or going
constexpr int kOwnerTriesMax = 20;

int tell(const LedgerShell& shell, const LedgerAnswer& answer) {
  if (!answer.ok())
    return fail(shell.err, Error{.status = answer.status, .message = answer.message});
  shell.err << printable(answer.message) << '\n';
  return 0;
}

// The files have no owner now; we are it until this returns.
int change_stopped(const LedgerShell& shell, const LedgerCommand& command,
                   std::unique_ptr<Directory> directory) {
  const Result<Survey> survey = survey_ledger(*directory);
  if (!survey) return fail(shell.err, survey.error());
  if (survey->views.empty()) {
    return fail(shell.err, kExitNotFound,
                fmt::format("the ledger {} holds nothing", shell.directory()));
  }
  // Who gives a directory may mean another machine's, whose owner lives there.
  if (!shell.arguments.directory.empty() && !survey->state.open().empty()) {
    return fail(shell.err, kExitNotFound,
                fmt::format("{} holds {} open streams: ship it first (`ledger ship {} "
                            "--owner-is-dead`, if its owner is)",
                            shell.directory(), survey->state.open().size(), shell.directory()));
  }
  Log log(STDERR_FILENO, LogLevel::kWarning);
  auto ledger = Ledger::open(std::move(directory), nullptr, log,
                             ledger_settings(shell.config, survey->database));
  if (!ledger) return fail(shell.err, ledger.error());
  const LedgerAnswer answer = run_command(**ledger, command);
  const bool is_clean = (*ledger)->close(Milliseconds{0});
  log.flush(Log::kDrainMax);
  const int code = tell(shell, answer);
  if (is_clean) return code;
  fail(shell.err, kExitDisk, "the disk does not answer");
  _exit(kExitDisk);  // a write may be under way
}

// False: nobody answers. `code` otherwise.
bool ask_owner(const LedgerShell& shell, const LedgerCommand& command, std::string& problem,
               int& code) {
  bool was_said = false;
  std::string answer;
  if (!ask_control(control_path(shell.directory()), write_command(command), kAnswerMax, answer,
                   was_said)) {
    problem = answer;
    if (!was_said) return false;
    code = fail(shell.err, kExitTryAgain,
                answer + "; it may have been done, and saying it again does no harm");
    return true;
  }
  const auto read = read_answer(answer);
  code =
      read ? tell(shell, *read)
           : fail(shell.err, kExitTryAgain, "the owner's answer makes no sense: another version?");
  return true;
}

int change(const LedgerShell& shell, const LedgerCommand& command) {
  const std::string path = shell.directory();
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored))
    return fail(shell.err, kExitNotFound, fmt::format("there is no ledger {}", path));
  std::string problem, silence;
  for (int tries = 1;; ++tries) {
    auto directory = open_directory(path, problem);
    if (directory != nullptr) return change_stopped(shell, command, std::move(directory));
    if (problem != kDirectoryIsTaken)
      return fail(shell.err, kExitDisk, fmt::format("the ledger {}: {}", path, problem));
    int code = 0;
    if (ask_owner(shell, command, silence, code)) return code;
    if (tries == kOwnerTriesMax) break;
    usleep(static_cast<useconds_t>(std::chrono::microseconds(kOwnerPause).count()));
  }
  return fail(shell.err, kExitTryAgain,
              fmt::format("the ledger {} has an owner, which does not answer: {}", path, silence));
}

// Nothing: told.
std::optional<ObjectId> read_id(const LedgerShell& shell, const std::string& text) {
  const auto id = ObjectId::from_hex(text);
  if (!id) fail(shell.err, kExitUsage, "an id has 24 hexadecimal digits; see `ledger unresolved`");
  return id;
}

}  // namespace

LedgerSettings ledger_settings(const Config& config, std::string database) {
  LedgerSettings settings;
  settings.max_bytes = config.ledger_bytes_max;
  settings.commit_gap = config.commit_gap;
  settings.commit_timeout = config.commit_timeout;
  settings.ship_interval = config.ship_interval;
  settings.max_replay_age = config.max_replay_age;
  settings.database = std::move(database);
  return settings;
}

int ledger_resolve(const LedgerShell& shell) {
  const LedgerArguments& arguments = shell.arguments;
  const bool has_figure = arguments.prompt_n && arguments.completion_n;
  const bool has_any = arguments.prompt_n || arguments.completion_n;
  if (arguments.is_free ? has_any : !has_figure)
    return fail(shell.err, kExitUsage, "say --prompt N --completion N, or --free");
  LedgerCommand command{.kind = LedgerCommand::Kind::kResolve, .id = {}, .figure = {}};
  command.id = read_id(shell, arguments.id);
  if (!command.id) return kExitUsage;
  if (has_figure) command.figure = Figure{*arguments.prompt_n, *arguments.completion_n};
  return change(shell, command);
}

int change_dead(const LedgerShell& shell) {
  const LedgerArguments& arguments = shell.arguments;
  using Kind = LedgerCommand::Kind;
  LedgerCommand command{
      .kind = arguments.rebill ? Kind::kRebill : Kind::kRequeue, .id = {}, .figure = {}};
  if (arguments.rebill || *arguments.requeue != "all") {
    command.id = read_id(shell, arguments.rebill ? *arguments.rebill : *arguments.requeue);
    if (!command.id) return kExitUsage;
  }
  return change(shell, command);
}

}  // namespace llmproxy
