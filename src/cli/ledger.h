// The subcommand `ledger`: shows, checks, exports, ships and mends the ledger's files, of a running
// proxy or a stopped one. Reading the command line is cli/arguments'. Prints to `out` what a script
// wants and to `err` what a person reads; returns the exit code.
//
// What reads does so from the files. What changes something asks the running owner over its control
// socket; where there is none, it takes the lock and recovers the files first, as a start does.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>

#include "admin/ledger_command.h"
#include "base/result.h"
#include "billing/database.h"
#include "billing/ledger_survey.h"
#include "config/config.h"

namespace llmproxy {

constexpr int kExitDisk = 70;  // the files cannot be read or written, or are no ledger's

struct LedgerArguments {
  std::string directory{};  // "": that of the configuration
  bool is_json = false;
  // resolve
  std::string id{};
  std::optional<int64_t> prompt_n{}, completion_n{};
  bool is_free = false;
  // dead
  std::optional<std::string> requeue{}, rebill{};
  // verify
  bool is_files_only = false;
  // export
  std::string since{}, until{};
  std::string format = "ndjson";
  // ship
  bool is_owner_dead = false, is_old = false, is_all = false;
};

// Opens the configured database; called only where it is needed.
using OpenDatabase = std::function<Result<std::unique_ptr<Database>>()>;

// What a command works with.
struct LedgerShell {
  const Config& config;
  const LedgerArguments& arguments;
  OpenDatabase open_database;
  std::ostream& out;
  std::ostream& err;

  std::string directory() const;
};

// How much of each there is, what waits longest, and where the owner answers, its own counts.
int ledger_status(const LedgerShell& shell);
// What cost cannot be known: a table, or one JSON array.
int ledger_unresolved(const LedgerShell& shell);
int ledger_resolve(const LedgerShell& shell);
// Events that are not sent any more; with requeue or rebill, what a person decides of them.
int ledger_dead(const LedgerShell& shell);
// Every byte of the files, and every delivered event against the database.
int ledger_verify(const LedgerShell& shell);
// Every event of the files since a time.
int ledger_export(const LedgerShell& shell);
// A stopped ledger's events to the configured database, to the end.
int ledger_ship(const LedgerShell& shell);
// A stopped ledger's events are for the configured database from now on.
int ledger_retarget(const LedgerShell& shell);

// For the parts of it.

int change_dead(const LedgerShell& shell);

int exit_code(const Error& error);  // of the ledger's or the database's statuses
int fail(std::ostream& err, const Error& error);

// Surveys the files. Nothing: `code` is what to exit with, and `err` was told. Alarms and notes go
// to `err` where `tells`.
std::optional<Survey> look_at_ledger(const LedgerShell& shell, bool tells, int& code);

// The settings of the configuration, for a ledger whose events are `database`'s.
LedgerSettings ledger_settings(const Config& config, std::string database);

}  // namespace llmproxy
