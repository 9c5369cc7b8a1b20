// The subcommand `keys`: makes, lists, expires and revokes API keys. Reading the command line is
// cli/arguments'. Prints to `out` what a script wants and to `err` what a person reads; returns the
// exit code.
#pragma once

#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "billing/database.h"
#include "cli/print.h"
#include "cli/when.h"
#include "config/config.h"

namespace llmproxy {

struct KeysCreate {
  std::string user;
  std::string expires = "never";  // as parse_when
  std::string comment{};
  std::optional<std::string> hash{};  // registers this SHA-256 (64 hex digits); makes no token
};

// Prints the new token alone, the only time it is ever shown; with `hash` the new key's id. A key
// that could not be told of is withdrawn.
int keys_create(Database& database, const Config& config, const KeysCreate& arguments,
                std::ostream& out, std::ostream& err);

// A table, or one JSON array of {id, access_level, user_id, date_expiry, comment}. Never secrets.
int keys_list(Database& database, bool is_json, std::ostream& out, std::ostream& err);

int keys_expire(Database& database, const Config& config, const std::string& id,
                const std::string& when, std::ostream& err);

// Deletes the key. Its events stay.
int keys_revoke(Database& database, const Config& config, const std::string& id, std::ostream& err);

}  // namespace llmproxy
