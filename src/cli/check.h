// Loading the configuration for a person: every problem on stderr, one a line. The server and all
// subcommands use it, so that the same mistake always gives the same text.
#pragma once

#include <memory>
#include <string>

#include "config/config.h"

namespace llmproxy {

inline constexpr int kExitConfig = 78;  // EX_CONFIG of sysexits.h

// Loads `path` and has judged what only the database's driver and the TLS library can judge. The
// database may be overridden by LLMPROXY_DB_URI.
LoadedConfig load_whole_config(const std::string& path);

// The same for a person: prints errors and warnings on stderr. Null when there was an error.
std::shared_ptr<const Config> load_config_or_report(const std::string& path);

// The subcommand `check`. Returns the exit code: 0, or kExitConfig.
int run_check(const std::string& config_path);

}  // namespace llmproxy
