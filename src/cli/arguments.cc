// CLI11's words for llm-billing-proxy(8). Nothing is decided here but which function runs.
#include "cli/arguments.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "cli/check.h"
#include "cli/demo.h"
#include "cli/keys.h"
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

CLI::App* add_demo(CLI::App& app, Arguments& arguments) {
  CLI::App* demo = app.add_subcommand(
      "demo", "Try it: serves on a throw-away database with a fresh key and a scripted model.");
  demo->fallthrough();
  demo->add_option("--dir", arguments.demo.directory,
                   "keep the database in this directory (default: a temporary one)");
  demo->add_option("--port", arguments.demo.port, "listen on this port (default: any free one)");
  CLI::Option* url = demo->add_option("--backend", arguments.demo.backend_url,
                                      "URL of a real model server instead of the scripted one");
  demo->add_option("--backend-token", arguments.demo.backend_token, "token for that server")
      ->needs(url);
  demo->add_option("--model", arguments.demo.model, "model name that clients send")
      ->capture_default_str();
  return demo;
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
  app.add_flag("-t", arguments.is_check, "as the subcommand check");
  const CLI::App* check =
      app.add_subcommand("check", "Check the configuration file.")->fallthrough();
  const CLI::App* keys = add_keys(app, arguments);
  const CLI::App* demo = add_demo(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  if (check->parsed() || arguments.is_check) return run_check(arguments.config_path);
  if (keys->parsed()) return run_keys(*keys, arguments);
  if (demo->parsed()) return run_demo(arguments.demo);
  return run_serve(arguments);
}

}  // namespace llmproxy
