// Stopped ledgers to their database, to the end; and to another database than before.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <system_error>
#include <thread>
#include <vector>

#include "base/text.h"
#include "billing/segment.h"
#include "cli/ledger.h"
#include "cli/print.h"
#include "cli/serve.h"

namespace llmproxy {
namespace {

constexpr Milliseconds kLook{20};               // at how far it is
constexpr Milliseconds kNoProgressMax{60'000};  // of a database that takes nothing: then it ends
constexpr Milliseconds kFlushMax{5'000};        // for the last mark
constexpr const char* kLockName = "lock";

// A ledger without an owner, which we are now.
struct Stopped {
  std::unique_ptr<Directory> directory;
  std::shared_ptr<Database> database;
  Survey survey;
};

// False: `code` is what to exit with, and it was told.
bool take_over(const LedgerShell& shell, Stopped& stopped, int& code) {
  const std::string path = shell.directory();
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    code = fail(shell.err, kExitNotFound, fmt::format("there is no ledger {}", path));
    return false;
  }
  std::string problem;
  stopped.directory = open_directory(path, problem);
  if (stopped.directory == nullptr) {
    const bool is_live = problem == kDirectoryIsTaken;
    code =
        fail(shell.err, is_live ? kExitTryAgain : kExitDisk,
             fmt::format("the ledger {}: {}{}", path, problem, is_live ? "; stop it first" : ""));
    return false;
  }
  auto survey = survey_ledger(*stopped.directory);
  if (!survey) {
    code = fail(shell.err, survey.error());
    return false;
  }
  stopped.survey = std::move(*survey);
  auto database = shell.open_database();
  if (!database) {
    code = fail(shell.err, database_exit_code(database.error()),
                "database: " + database.error().message);
    return false;
  }
  stopped.database = std::move(*database);
  return true;
}

// A lock on this machine says nothing of an owner on another.
bool refuses_open(const LedgerShell& shell, const Survey& survey) {
  if (survey.state.open().empty() || shell.arguments.is_owner_dead) return false;
  fail(shell.err, kExitNotFound,
       fmt::format("{} holds {} open streams. If the proxy that made it is dead for good, say "
                   "--owner-is-dead: they are billed from their last durable figure, or become "
                   "unresolved. Else start it there.",
                   shell.directory(), survey.state.open().size()));
  return true;
}

// Until nothing waits. False: the database took nothing for kNoProgressMax.
bool await_delivery(const Ledger& ledger) {
  uint64_t before = 0;
  MonotonicTime since = monotonic_now();
  for (;;) {
    const LedgerCounts counts = ledger.counts();
    if (counts.backlog == 0) return true;
    const uint64_t done = counts.delivered + counts.dead + counts.lost;
    if (done != before) since = monotonic_now();
    before = done;
    if (monotonic_now() - since > kNoProgressMax) return false;
    std::this_thread::sleep_for(kLook);
  }
}

// What was too old for an earlier run.
std::optional<Error> send_withheld(Ledger& ledger, const Survey& survey) {
  for (const auto& [id, one] : survey.state.dead()) {
    if (one.record.kind != DeadRecord::Kind::kWithheld) continue;
    if (auto error = ledger.requeue(id)) return error;
  }
  return std::nullopt;
}

// The files of a ledger that holds nothing any more, oldest first. What is in quarantine stays.
int remove_files(Directory& directory) {
  std::vector<std::string> names;
  if (const int error = directory.list(names); error != 0) return error;
  std::sort(names.begin(), names.end());  // numbers of fixed width
  std::stable_partition(names.begin(), names.end(),
                        [](const std::string& name) { return name.starts_with("side"); });
  for (const std::string& name : names) {
    if (!segment_number(name) && name != "side" && !name.ends_with(".new")) continue;
    if (const int error = directory.remove(name); error != 0 && error != ENOENT) return error;
    if (const int error = directory.sync(); error != 0) return error;
  }
  return 0;
}

// 0 when nothing is left of it; else what a person has to do is told.
int clear_away(const LedgerShell& shell) {
  const std::string path = shell.directory();
  std::string problem;
  const auto directory = open_directory(path, problem);
  if (directory == nullptr)
    return fail(shell.err, kExitTryAgain, fmt::format("the ledger {}: {}", path, problem));
  const auto survey = survey_ledger(*directory);
  if (!survey) return fail(shell.err, survey.error());
  const LedgerState& state = survey->state;
  if (survey->backlog > 0 || !state.open().empty()) {
    return fail(shell.err, kExitTryAgain,
                fmt::format("{} events are not known to be in the database; say it again",
                            survey->backlog));
  }
  if (!state.unresolved().empty() || !state.dead().empty() || !survey->alarms.empty()) {
    return fail(shell.err, kExitNotFound,
                fmt::format("{} stays: {} unresolved requests, {} dead events{}; see `ledger "
                            "unresolved` and `ledger dead`, with --dir",
                            path, state.unresolved().size(), state.dead().size(),
                            survey->alarms.empty() ? "" : ", damage"));
  }
  if (const int error = remove_files(*directory); error != 0)
    return fail(shell.err, kExitDisk, fmt::format("{}: {}", path, errno_text(error)));
  std::error_code ignored;
  if (survey->quarantined > 0) {
    return fail(shell.err, kExitNotFound,
                fmt::format("{} stays: {} files in quarantine", path, survey->quarantined));
  }
  std::filesystem::remove(path + "/" + kLockName, ignored);
  std::filesystem::remove(path, ignored);
  return 0;
}

}  // namespace

int ledger_ship(const LedgerShell& shell) {
  const LedgerArguments& arguments = shell.arguments;
  if (arguments.is_all != arguments.directory.empty()) {
    return fail(shell.err, kExitUsage,
                "name the directory DIR, or say --all for this configuration's own ledger");
  }
  Stopped stopped;
  int code = 0;
  if (!take_over(shell, stopped, code)) return code;
  // Its own lock proves that the owner of its own ledger is dead.
  if (!arguments.is_all && refuses_open(shell, stopped.survey)) return kExitNotFound;
  if (!stopped.survey.views.empty()) {
    Log log(STDERR_FILENO, LogLevel::kInfo);
    LedgerSettings settings = ledger_settings(shell.config, stopped.database->identity());
    if (arguments.is_old) settings.max_replay_age = Milliseconds::max();
    auto ledger = Ledger::open(std::move(stopped.directory), stopped.database, log, settings);
    if (!ledger) return fail(shell.err, ledger.error());
    const auto problem =
        arguments.is_old ? send_withheld(**ledger, stopped.survey) : std::optional<Error>();
    const bool is_delivered = !problem && await_delivery(**ledger);
    const LedgerCounts counts = (*ledger)->counts();
    const bool is_clean = (*ledger)->close(kFlushMax);
    log.flush(Log::kDrainMax);
    if (!is_clean) {
      fail(shell.err, kExitDisk, "the disk does not answer");
      _exit(kExitDisk);  // a write may be under way
    }
    if (problem) return fail(shell.err, *problem);
    shell.err << fmt::format("{} events delivered to {}\n", counts.delivered,
                             stopped.database->identity());
    if (!is_delivered) {
      return fail(shell.err, kExitTryAgain,
                  fmt::format("the database takes no events; {} wait, and nothing is lost: say it "
                              "again",
                              counts.backlog));
    }
  }
  stopped = {};
  return clear_away(shell);
}

int ledger_retarget(const LedgerShell& shell) {
  Stopped stopped;
  int code = 0;
  if (!take_over(shell, stopped, code)) return code;
  const std::string path = shell.directory(), identity = stopped.database->identity();
  const std::string before = stopped.survey.database;
  if (stopped.survey.views.empty())
    return fail(shell.err, kExitNotFound, fmt::format("the ledger {} holds nothing", path));
  if (before == identity) {
    shell.err << fmt::format("its events are for {} already\n", identity);
    return 0;
  }
  if (!shell.arguments.directory.empty() && refuses_open(shell, stopped.survey))
    return kExitNotFound;
  Log log(STDERR_FILENO, LogLevel::kWarning);
  LedgerSettings settings = ledger_settings(shell.config, identity);
  settings.may_retarget = true;
  // Its end is a durable group in a new segment, whose header names the database.
  auto ledger = Ledger::open(std::move(stopped.directory), nullptr, log, settings);
  if (!ledger) return fail(shell.err, ledger.error());
  const bool is_clean = (*ledger)->close(Milliseconds{0});
  log.flush(Log::kDrainMax);
  if (!is_clean) {
    fail(shell.err, kExitDisk, "the disk does not answer");
    _exit(kExitDisk);
  }
  ledger->reset();
  const auto survey = look_at_ledger(shell, true, code);
  if (!survey) return code;
  if (survey->database != identity)
    return fail(shell.err, kExitDisk, "it could not be written; nothing was changed");
  shell.err << fmt::format("{} events that wait go to {} now, and not to {}\n", survey->backlog,
                           identity, before);
  return 0;
}

}  // namespace llmproxy
