// The configuration: one TOML file, read once, checked whole, then immutable. A request keeps the
// Config it started with; a reload makes a new one. Every mistake is told as FILE:LINE:COL: error:
// KEY: what was expected.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"

namespace llmproxy {

// What a stream asks of its backend beyond what the client asked.
enum class UsagePolicy : uint8_t {
  kAsk,         // ask for the final figure (stream_options.include_usage)
  kAsIs,        // ask for nothing: the server refuses stream_options, or sends usage unasked
  kContinuous,  // ask for running figures too (continuous_usage_stats)
};

struct Backend {
  std::string name;  // the model name clients send
  std::string url;   // as written, for the log; a password in it is refused
  bool is_https = false;
  std::string host;  // no brackets around an IPv6 address
  uint16_t port = 0;
  std::string
      authority;  // for the Host header: host, brackets where needed, port unless the default
  std::string base_path;  // "" or "/prefix", no trailing slash; the endpoint's path follows
  std::string token;      // "" sends no Authorization
  bool verify_ssl = true;
  std::string ca_file;  // PEM; "" means the system's
  Sha256 ca_digest{};   // of its content when it was checked: other content is another backend
  UsagePolicy usage = UsagePolicy::kAsk;

  bool operator==(const Backend&) const = default;
};

// Bounds of one client connection and of the process. Bytes unless named otherwise.
struct Limits {
  size_t connections_max = 16384;             // 503 and close beyond
  size_t head_bytes_max = 32 << 10;           // 431
  size_t headers_max = 100;                   // 431
  size_t target_bytes_max = 8 << 10;          // 414
  size_t body_bytes_max = size_t{32} << 20;   // 413
  size_t reply_bytes_max = size_t{64} << 20;  // plain reply; 502 and unresolved beyond
  size_t memory_bytes_max = size_t{1}
                            << 30;     // all buffered bodies and replies together; 503 beyond
  Milliseconds timeout_idle{75'000};   // between requests: closed without a word
  Milliseconds timeout_head{10'000};   // first byte to end of head: 408
  Milliseconds timeout_body{30'000};   // silence inside a body: 408
  size_t body_rate_min = 1024;         // bytes a second after the first 30 s: 408; 0 = off
  Milliseconds timeout_write{60'000};  // a client that takes nothing is gone

  bool operator==(const Limits&) const = default;
};

struct Config {
  std::string path;  // of the file, as given

  LogLevel log_level = LogLevel::kInfo;
  std::string host = "127.0.0.1";
  uint16_t port = 8080;  // 0: the system picks
  unsigned threads =
      0;  // 0: the cores this process may use (resolved by the loader; never 0 after it)
  std::string data_dir = "./data";

  Milliseconds timeout_connect{5'000};
  Milliseconds timeout_read{600'000};
  Milliseconds shutdown_timeout{60'000};
  Milliseconds flush_timeout{10'000};

  std::string db_uri;  // always set after loading: mongodb://, mongodb+srv:// or sqlite://PATH

  std::string access_level = "COMPLETION";
  Milliseconds key_ttl{10'000};
  Milliseconds key_unknown_ttl{2'000};
  Milliseconds key_stale_max{3'600'000};
  size_t keys_max = 100'000;         // cached known keys
  size_t keys_unknown_max = 10'000;  // cached unknown tokens
  size_t lookups_max = 1'000;        // look-ups under way or waiting; 503 beyond

  size_t ledger_bytes_max = size_t{4}
                            << 30;     // its files in data_dir/ledger; 503 for new work beyond 90 %
  Milliseconds commit_gap{1};          // from one commit of the ledger to the next
  Milliseconds commit_timeout{5'000};  // a commit that takes longer: 503 for new work
  Milliseconds ship_interval{1'000};
  Milliseconds max_replay_age{2'592'000'000};  // older events are kept and not sent

  Limits limits;

  std::map<std::string, Backend, std::less<>> backends;  // by name, sorted for the log

  const Backend* find_backend(std::string_view model) const;
};

struct ConfigProblem {
  bool is_error = true;  // else a warning
  int line = 0;          // from 1; 0 where no place in the file is to blame
  int column = 0;
  std::string key;   // dotted, "" for the file as a whole
  std::string text;  // what was expected
};

// "FILE:LINE:COL: error: KEY: TEXT"; place and key left out where they are empty.
std::string format_problem(std::string_view path, const ConfigProblem& problem);

struct LoadedConfig {
  std::shared_ptr<const Config> config;  // null when any problem is an error
  std::vector<ConfigProblem> problems;   // errors and warnings, in the order of the file
};

// Checks of values that only others can judge: the database's driver, the TLS library. Each gives
// "" or what is wrong (of a file, as words that follow its name), and no secret. Null: not asked.
struct ValueChecks {
  std::string (*database_uri)(const std::string& uri) = nullptr;
  std::string (*database_options)(const std::string& uri) = nullptr;  // of a good one; warnings
  std::string (*ca_file)(const std::string& path) = nullptr;
};

// Reads and checks the file. `db_uri_override` is the value of LLMPROXY_DB_URI ("" = unset).
// Never throws on what the file holds.
LoadedConfig load_config(const std::string& path, std::string_view db_uri_override,
                         const ValueChecks& checks = {});
LoadedConfig parse_config(std::string_view text, const std::string& path,
                          std::string_view db_uri_override, const ValueChecks& checks = {});

// What the loader asks of a backend: "" or what was expected.
std::string check_backend_name(std::string_view name);
std::string check_backend_token(std::string_view token);
// "" or why its url is probably not what was meant.
std::string warn_of_base_path(const Backend& backend);

// What a reload changed. `live` settings take effect at once; `needs_restart` names keys that did
// not.
struct ConfigChange {
  std::vector<std::string> added, changed, removed;  // backends
  std::vector<std::string> live;                     // other keys in effect from now on
  std::vector<std::string> needs_restart;
};
ConfigChange compare_configs(const Config& before, const Config& after);

// The config that a reload puts into effect: `after`, but with the keys of needs_restart as
// `before`.
std::shared_ptr<const Config> apply_reload(const Config& before, const Config& after);

// A database URI for the log: the password replaced by ***.
std::string mask_uri(std::string_view uri);

}  // namespace llmproxy
