// The settings and their bounds. A new setting is a member of Config or Limits, a line here, and a
// line in config.toml (a test compares).
#include "config/settings.h"

#include <fmt/format.h>

#include <array>

#include "base/text.h"
#include "config/url.h"

namespace llmproxy {

namespace {

constexpr bool kLive = true;
constexpr bool kRestart = false;

constexpr double kMinute = 60;
constexpr double kHour = 60 * kMinute;
constexpr double kDay = 24 * kHour;
constexpr double kKiB = 1024;
constexpr double kMiB = 1024 * kKiB;
constexpr double kGiB = 1024 * kMiB;

bool is_plain_text(std::string_view text) {
  return !text.empty() && is_printable(text);
}

constexpr std::string_view kPlainText =
    "expected a string that is not empty and has no control characters";

const std::array kSettings{
    Setting{"", "log_level", kLive, &Config::log_level},
    Setting{"", "host", kRestart, &Config::host, 0, 0, is_host,
            "expected an IPv4 or IPv6 address or a host name, without port or brackets"},
    Setting{"", "port", kRestart, &Config::port, 0, 65'535},
    Setting{"", "threads", kRestart, &Config::threads, 0, 256},
    Setting{"", "data_dir", kRestart, &Config::data_dir, 0, 0, is_plain_text, kPlainText},
    Setting{"", "timeout_connect", kLive, &Config::timeout_connect, 0.01, 10 * kMinute},
    Setting{"", "timeout_read", kLive, &Config::timeout_read, 0.01, kDay},
    Setting{"", "shutdown_timeout", kLive, &Config::shutdown_timeout, 0, kDay},
    Setting{"", "flush_timeout", kLive, &Config::flush_timeout, 0, kHour},

    Setting{"db", "uri", kRestart, &Config::db_uri, 0, 0, is_database_uri, kExpectedDatabaseUri},

    Setting{"auth", "access_level", kLive, &Config::access_level, 0, 0, is_plain_text, kPlainText},
    Setting{"auth", "key_ttl", kLive, &Config::key_ttl, 0, kHour},
    Setting{"auth", "key_unknown_ttl", kLive, &Config::key_unknown_ttl, 0, kHour},
    Setting{"auth", "key_stale_max", kLive, &Config::key_stale_max, 0, 7 * kDay},
    Setting{"auth", "keys_max", kRestart, &Config::keys_max, 1, 10'000'000},
    Setting{"auth", "keys_unknown_max", kRestart, &Config::keys_unknown_max, 1, 10'000'000},
    Setting{"auth", "lookups_max", kRestart, &Config::lookups_max, 1, 1'000'000},

    Setting{"ledger", "max_bytes", kRestart, &Config::ledger_bytes_max, 16 * kMiB, 1024 * kGiB},
    Setting{"ledger", "commit_gap", kRestart, &Config::commit_gap, 0, 1},
    Setting{"ledger", "commit_timeout", kRestart, &Config::commit_timeout, 0.1, 10 * kMinute},
    Setting{"ledger", "ship_interval", kRestart, &Config::ship_interval, 0.01, kMinute},
    Setting{"ledger", "max_replay_age", kRestart, &Config::max_replay_age, kHour, 3650 * kDay},

    Setting{"limits", "connections_max", kLive, &Limits::connections_max, 1, 1'000'000},
    Setting{"limits", "head_bytes_max", kLive, &Limits::head_bytes_max, kKiB, kMiB},
    Setting{"limits", "headers_max", kLive, &Limits::headers_max, 10, 1'000},
    Setting{"limits", "target_bytes_max", kLive, &Limits::target_bytes_max, 64, kMiB},
    Setting{"limits", "body_bytes_max", kLive, &Limits::body_bytes_max, kKiB, kGiB},
    Setting{"limits", "reply_bytes_max", kLive, &Limits::reply_bytes_max, kKiB, kGiB},
    Setting{"limits", "memory_bytes_max", kLive, &Limits::memory_bytes_max, kMiB, 1024 * kGiB},
    Setting{"limits", "timeout_idle", kLive, &Limits::timeout_idle, 0.01, kDay},
    Setting{"limits", "timeout_head", kLive, &Limits::timeout_head, 0.01, kHour},
    Setting{"limits", "timeout_body", kLive, &Limits::timeout_body, 0.01, kHour},
    Setting{"limits", "body_rate_min", kLive, &Limits::body_rate_min, 0, kGiB},
    Setting{"limits", "timeout_write", kLive, &Limits::timeout_write, 0.01, kHour},
};

}  // namespace

std::string Setting::dotted_key() const {
  return table.empty() ? std::string(key) : fmt::format("{}.{}", table, key);
}

std::string Setting::bounds() const {
  return fmt::format("{} to {}", min, max);
}

std::span<const Setting> all_settings() {
  return kSettings;
}

}  // namespace llmproxy
