// CLI11's words for llm-billing-proxy(8). Nothing is decided here but which function runs.
#include "cli/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/cores.h"
#include "cli/check.h"
#include "cli/demo.h"
#include "cli/keys.h"
#include "cli/ledger.h"
#include "cli/serve.h"
#include "db/open.h"

namespace llmproxy {
namespace {

struct Arguments {
  std::string config_path = "config.toml";
  bool is_check = false;
  KeysCreate create;
  bool is_json = false;
  std::string id, when;
  LedgerArguments ledger;
  DemoOptions demo;
};

int run_serve(const Arguments& arguments) {
  const std::shared_ptr<const Config> config = load_config_or_report(arguments.config_path);
  if (config == nullptr) return kExitConfig;
  return serve(config, {});
}

// Opens what `keys` works on, then runs `action` on it.
template <class Action>
int with_database(const Arguments& arguments, Action action) {
  const std::shared_ptr<const Config> config = load_config_or_report(arguments.config_path);
  if (config == nullptr) return kExitConfig;
  Result<std::unique_ptr<Database>> database = open_database(config->db_uri);
  if (!database.ok()) {
    std::cerr << "database: " << database.error().message << '\n';
    return database_exit_code(database.error());
  }
  return action(**database, *config);
}

int run_keys(const CLI::App& keys, const Arguments& arguments) {
  return with_database(arguments, [&](Database& database, const Config& config) {
    if (keys.got_subcommand("create")) {
      return keys_create(database, config, arguments.create, std::cout, std::cerr);
    }
    if (keys.got_subcommand("list")) {
      return keys_list(database, arguments.is_json, std::cout, std::cerr);
    }
    if (keys.got_subcommand("expire")) {
      return keys_expire(database, config, arguments.id, arguments.when, std::cerr);
    }
    return keys_revoke(database, config, arguments.id, std::cerr);
  });
}

CLI::App* add_keys(CLI::App& app, Arguments& arguments) {
  CLI::App* keys = app.add_subcommand("keys", "Make, list, expire and revoke API keys.");
  keys->fallthrough()->require_subcommand(1);
  CLI::App* create = keys->add_subcommand("create", "Make a key; prints its token, once.");
  create->fallthrough();
  create->add_option("--user", arguments.create.user, "user_id that its events are billed to")
      ->required();
  create
      ->add_option("--expires", arguments.create.expires,
                   "ISO time, now, never, or +30d, +12h and the like")
      ->capture_default_str();
  create->add_option("--comment", arguments.create.comment, "a note for yourself");
  create->add_option("--hash", arguments.create.hash,
                     "register this SHA-256 of a token instead of making one; prints the key's id");
  CLI::App* list = keys->add_subcommand("list", "List all keys, without their secrets.");
  list->fallthrough();
  list->add_flag("--json", arguments.is_json, "one JSON array, for scripts");
  CLI::App* expire = keys->add_subcommand("expire", "Change when a key expires.");
  expire->fallthrough();
  expire->add_option("ID", arguments.id, "the key's id")->required();
  expire->add_option("WHEN", arguments.when, "as --expires of create")->required();
  CLI::App* revoke = keys->add_subcommand("revoke", "Delete a key. Its events stay.");
  revoke->fallthrough();
  revoke->add_option("ID", arguments.id, "the key's id")->required();
  return keys;
}

std::string refuse_empty(const std::string& value) {
  return value.empty() ? "must not be empty" : "";
}

int run_ledger(const CLI::App& ledger, const Arguments& arguments) {
  const std::shared_ptr<const Config> config = load_config_or_report(arguments.config_path);
  if (config == nullptr) return kExitConfig;
  raise_open_files_limit();  // a large ledger has many segments
  const LedgerShell shell{*config, arguments.ledger, [&] { return open_database(config->db_uri); },
                          std::cout, std::cerr};
  constexpr std::pair<const char*, int (*)(const LedgerShell&)> kCommands[] = {
      {"status", ledger_status}, {"unresolved", ledger_unresolved}, {"resolve", ledger_resolve},
      {"dead", ledger_dead},     {"verify", ledger_verify},         {"export", ledger_export},
      {"ship", ledger_ship},     {"retarget", ledger_retarget},
  };
  for (const auto& [name, run] : kCommands) {
    if (ledger.got_subcommand(name)) return run(shell);
  }
  return kExitUsage;
}

CLI::App* add_ledger_command(CLI::App* ledger, LedgerArguments& arguments, const char* name,
                             const char* what) {
  CLI::App* command = ledger->add_subcommand(name, what)->fallthrough();
  command
      ->add_option("--dir", arguments.directory,
                   "the ledger in this directory (default: `ledger` in data_dir)")
      ->check(refuse_empty);
  return command;
}

void add_ledger_reading(CLI::App* ledger, LedgerArguments& arguments) {
  CLI::App* status = add_ledger_command(
      ledger, arguments, "status",
      "How many of each there are, and what waits. Daily, and when bills are missing.");
  CLI::App* unresolved = add_ledger_command(
      ledger, arguments, "unresolved",
      "Requests whose cost is not known. When status counts any: then resolve each.");
  for (CLI::App* command : {status, unresolved})
    command->add_flag("--json", arguments.is_json, "for scripts");
  CLI::App* verify = add_ledger_command(
      ledger, arguments, "verify",
      "Check every byte, and every delivered event against the database. After a disk failed, a\n"
      "database was restored, or before invoices go out.");
  verify->add_flag("--files", arguments.is_files_only, "ask no database");
  CLI::App* exported = add_ledger_command(
      ledger, arguments, "export",
      "Print the events of the ledger's files with their state. When the database is out of reach\n"
      "and somebody needs the figures. Files whose events are all delivered go, so this is no\n"
      "archive.");
  exported
      ->add_option("--since", arguments.since,
                   "from this time on: now, 30d (so long ago; s, m, h, d, w) or an ISO time")
      ->required();
  exported->add_option("--until", arguments.until, "up to this time, of the same kind");
  exported->add_option("--format", arguments.format, "ndjson or csv")->capture_default_str();
}

void add_ledger_changing(CLI::App* ledger, LedgerArguments& arguments) {
  CLI::App* resolve = add_ledger_command(ledger, arguments, "resolve",
                                         "Say what an unresolved request cost. When the backend's "
                                         "own log tells, or you give it away.");
  resolve->add_option("ID", arguments.id, "of `ledger unresolved`")->required();
  resolve->add_option("--prompt", arguments.prompt_n, "tokens")
      ->check(CLI::Range(int64_t{0}, kCountMax, "0 to 2^53"));
  resolve->add_option("--completion", arguments.completion_n, "tokens")
      ->check(CLI::Range(int64_t{0}, kCountMax, "0 to 2^53"));
  resolve->add_flag("--free", arguments.is_free, "nothing is owed");
  CLI::App* dead = add_ledger_command(
      ledger, arguments, "dead",
      "List the events that are not sent any more: the database refused them, or they are older\n"
      "than max_replay_age. When status counts any.");
  dead->add_flag("--json", arguments.is_json, "for scripts");
  CLI::Option* requeue = dead->add_option(
      "--requeue", arguments.requeue,
      "send this ID, or all, again under its own id: when the database would take it now, and an\n"
      "older event was not moved elsewhere meanwhile");
  dead->add_option("--rebill", arguments.rebill,
                   "send this ID under a new id: when another document stands under its own. Be\n"
                   "sure that the database holds no bill for it, or it is billed twice")
      ->excludes(requeue);
}

void add_ledger_moving(CLI::App* ledger, LedgerArguments& arguments) {
  CLI::App* ship = ledger->add_subcommand(
      "ship",
      "Send all that a stopped ledger holds to the database, and remove the files when nothing is\n"
      "left. When its proxy will never start again (DIR of a machine that died, or its copy), or\n"
      "before an older version takes this one's place (--all).");
  ship->fallthrough();
  ship->add_option("DIR", arguments.directory, "the directory with its segments")
      ->check(refuse_empty);
  ship->add_flag("--owner-is-dead", arguments.is_owner_dead,
                 "streams that were open get their outcome here: never while their proxy may live");
  ship->add_flag(
      "--old", arguments.is_old,
      "also events older than max_replay_age: sure that the database still has, or never\n"
      "had, their documents");
  ship->add_flag("--all", arguments.is_all, "this configuration's own ledger, instead of DIR");
  CLI::App* retarget =
      add_ledger_command(ledger, arguments, "retarget",
                         "What waits in a stopped ledger goes to the db.uri of now. When a start "
                         "says that its events\n"
                         "are another database's, and that database moved or is given up.");
  retarget->add_flag("--owner-is-dead", arguments.is_owner_dead, "with --dir: as of ship");
}

CLI::App* add_ledger(CLI::App& app, LedgerArguments& arguments) {
  CLI::App* ledger = app.add_subcommand(
      "ledger",
      "Show, check, export, ship and mend the ledger, of a running proxy or a stopped one.");
  ledger->fallthrough()->require_subcommand(1);
  add_ledger_reading(ledger, arguments);
  add_ledger_changing(ledger, arguments);
  add_ledger_moving(ledger, arguments);
  return ledger;
}

CLI::App* add_demo(CLI::App& app, Arguments& arguments) {
  CLI::App* demo = app.add_subcommand(
      "demo",
      "Try it: serves on a throw-away database with a fresh key and a scripted model.\n"
      "Reads no configuration file: -c is accepted and ignored.");
  demo->fallthrough()->footer("");  // its description tells of -c
  demo->add_option("--dir", arguments.demo.directory,
                   "keep the database in this directory (default: a temporary one)")
      ->check(refuse_empty);
  demo->add_option("--port", arguments.demo.port, "listen on this port (default: any free one)")
      ->check(refuse_empty);
  CLI::Option* url = demo->add_option("--backend", arguments.demo.backend_url,
                                      "URL of a real model server instead of the scripted one")
                         ->check(refuse_empty);
  demo->add_option("--backend-token", arguments.demo.backend_token, "token for that server")
      ->needs(url);
  demo->add_option("--model", arguments.demo.model, "model name that clients send")
      ->capture_default_str();
  return demo;
}

bool takes_value(const CLI::App& app, const std::string& word) {
  if (!word.starts_with('-')) return false;
  for (const CLI::Option* option : app.get_options()) {
    if (option->check_name(word)) return option->get_items_expected_max() > 0;
  }
  const auto subcommands = app.get_subcommands({});
  return std::any_of(subcommands.begin(), subcommands.end(),
                     [&](const CLI::App* subcommand) { return takes_value(*subcommand, word); });
}

// The arguments as CLI11 understands them. It takes `--comment= --expires=now` for a comment that
// reads `--expires=now`: an empty value becomes a word of its own.
std::vector<std::string> read_words(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> words;
  bool is_value = false;      // of the option before it
  bool may_be_option = true;  // no `--` yet
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--" && !is_value) may_be_option = false;
    const bool is_option = may_be_option && !is_value && word.starts_with("--") && word.size() > 3;
    if (is_option && word.find('=') == word.size() - 1) {
      words.push_back(word.substr(0, word.size() - 1));
      words.emplace_back();
      continue;
    }
    is_value = may_be_option && !is_value && takes_value(app, word);
    words.push_back(word);
  }
  return words;
}

int print_help(const CLI::App& app, const CLI::ParseError& error) {
  const bool is_help = app.exit(error) == 0;
  std::cout.flush();
  if (!is_help) return kExitUsage;
  if (std::cout) return 0;
  std::cerr << "error: the text could not be printed\n";
  return kExitOutput;
}

}  // namespace

int run_command_line(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Forwards LLM completions to their model servers and bills each one exactly once.\n"
      "Without a subcommand it serves. See llm-billing-proxy(8).",
      "llm-billing-proxy"};
  app.set_version_flag("--version", "llm-billing-proxy " LLMPROXY_VERSION);
  app.add_option("-c,--config", arguments.config_path, "configuration file")->capture_default_str();
  app.footer(
      "Every command takes -c,--config FILE: the configuration file (default: config.toml).");
  CLI::Option* check_flag = app.add_flag("-t", arguments.is_check, "as the subcommand check");
  const CLI::App* check =
      app.add_subcommand("check", "Check the configuration file.")->fallthrough();
  const CLI::App* keys = add_keys(app, arguments)->excludes(check_flag);
  const CLI::App* ledger = add_ledger(app, arguments.ledger)->excludes(check_flag);
  const CLI::App* demo = add_demo(app, arguments)->excludes(check_flag);
  app.require_subcommand(0, 1);
  try {
    std::vector<std::string> words = read_words(app, argc, argv);
    std::reverse(words.begin(), words.end());  // CLI11 takes them from the end
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return print_help(app, error);
  }
  const bool is_check = check->parsed() || arguments.is_check;
  if (is_check || keys->parsed() || ledger->parsed()) unblock_serve_signals();
  if (is_check) return run_check(arguments.config_path);
  if (keys->parsed()) return run_keys(*keys, arguments);
  if (ledger->parsed()) return run_ledger(*ledger, arguments);
  if (demo->parsed()) return run_demo(arguments.demo);
  return run_serve(arguments);
}

}  // namespace llmproxy
