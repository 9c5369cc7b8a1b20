// Prints what the loader found, the database's driver and the TLS library asked about their values.
// Opens no database and asks no backend.
#include "cli/check.h"

#include <fmt/format.h>

#include <cstdlib>
#include <iostream>

#include "cli/keys.h"
#include "db/open.h"
#include "net/tls.h"

namespace llmproxy {
namespace {

std::string check_ca_file(const std::string& path) {
  std::string error;
  if (net::TlsContext::make(true, path, error) != nullptr) return "";
  return fmt::format("holds no certificate that can be read: {}", error);
}

}  // namespace

LoadedConfig load_whole_config(const std::string& path) {
  const char* const db_uri =
      std::getenv("LLMPROXY_DB_URI");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return load_config(path, db_uri == nullptr ? "" : db_uri,
                     {check_database_uri, check_database_options, check_ca_file});
}

// Streams and not fmt::print, which throws when nothing can be written: a lost message changes no
// exit code.
std::shared_ptr<const Config> load_config_or_report(const std::string& path) {
  const LoadedConfig loaded = load_whole_config(path);
  for (const ConfigProblem& problem : loaded.problems) {
    std::cerr << format_problem(path, problem) << '\n';
  }
  return loaded.config;
}

int run_check(const std::string& config_path) {
  const std::shared_ptr<const Config> config = load_config_or_report(config_path);
  if (config == nullptr) return kExitConfig;
  const size_t count = config->backends.size();
  std::cout << fmt::format("{}: ok, {} backend{}\n", config_path, count, count == 1 ? "" : "s")
            << std::flush;
  if (std::cout) return 0;
  std::cerr << "error: the result could not be printed\n";
  return kExitOutput;
}

}  // namespace llmproxy
