// Prints what the loader found. Opens no database and asks no backend.
#include "cli/check.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace llmproxy {

std::shared_ptr<const Config> load_config_or_report(const std::string& path) {
  const char* const db_uri = std::getenv("LLMPROXY_DB_URI");
  const LoadedConfig loaded = load_config(path, db_uri == nullptr ? "" : db_uri);
  for (const ConfigProblem& problem : loaded.problems) {
    fmt::print(stderr, "{}\n", format_problem(path, problem));
  }
  return loaded.config;
}

int run_check(const std::string& config_path) {
  const std::shared_ptr<const Config> config = load_config_or_report(config_path);
  if (config == nullptr) return kExitConfig;
  const size_t count = config->backends.size();
  fmt::print("{}: ok, {} backend{}\n", config_path, count, count == 1 ? "" : "s");
  return 0;
}

}  // namespace llmproxy
