// Keys by hand. The rules of a key's use are the database's and the proxy's.
#include "cli/keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <ostream>
#include <vector>

#include "api/json_edit.h"
#include "base/digest.h"
#include "base/text.h"

namespace llmproxy {
namespace {

constexpr size_t kTokenBytes = 64;  // of chance: 86 characters, as Python's token_urlsafe(64) makes
constexpr size_t kHashDigits = 64;  // SHA-256
constexpr int64_t kDayMs = 86'400'000;
constexpr int64_t kAheadMaxMs = 36'500 * kDayMs;

constexpr int kStatusUnavailable = 503;  // as the databases say it

int fail(std::ostream& err, int code, std::string_view why) {
  err << "error: " << why << '\n';
  return code;
}

int fail(std::ostream& err, const Error& error) {
  const bool is_down = error.status == kStatusUnavailable;
  return fail(err, is_down ? kExitUnavailable : kExitNotFound, error.message);
}

std::string no_such_key(std::string_view id) {
  return fmt::format("no key has the id {}; see `keys list`", quote_json(id));
}

// A running proxy keeps what it has looked up for a while.
std::string effective_within(const Config& config) {
  return fmt::format("running proxies follow within {} s (key_ttl)",
                     std::chrono::ceil<std::chrono::seconds>(config.key_ttl).count());
}

std::string show_expiry(const std::optional<WallMs>& expires) {
  return expires ? format_utc(*expires) : "never";
}

// A comment must not move the cursor of who reads it.
std::string printable(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const size_t length = printable_length(text);
    shown += length > 0 ? text.substr(0, length) : "?";
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return shown;
}

// The same text to a reader of JSON; terminals obey the control characters U+0080 to U+009F too.
std::string quote_for_terminal(std::string_view text) {
  std::string quoted = quote_json(text);
  for (size_t at = quoted.find('\xc2'); at != std::string::npos; at = quoted.find('\xc2', at + 1)) {
    const auto code = static_cast<unsigned char>(quoted[at + 1]);
    if (code < 0xa0) quoted.replace(at, 2, fmt::format("\\u{:04x}", code));
  }
  return quoted;
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;  // not a later byte of a UTF-8 sequence
  }));
}

// The hash in lower case, or nothing.
std::optional<std::string> read_hash(std::string_view text) {
  const auto bytes = from_hex(text);
  if (text.size() != kHashDigits || !bytes) return std::nullopt;
  return to_hex({reinterpret_cast<const uint8_t*>(bytes->data()), bytes->size()});
}

std::string make_token() {
  std::array<uint8_t, kTokenBytes> chance{};
  random_bytes(chance);
  return to_base64url(chance);
}

void print_table(const std::vector<KeyRecord>& keys, std::ostream& out) {
  using Row = std::array<std::string, 5>;
  std::vector<Row> rows = {{"ID", "USER", "ACCESS LEVEL", "EXPIRES", "COMMENT"}};
  for (const KeyRecord& key : keys) {
    rows.push_back({printable(key.id), printable(key.user_id), printable(key.access_level),
                    show_expiry(key.expires), printable(key.comment)});
  }
  std::array<size_t, 5> widths{};
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], characters(row[i]));
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i] + std::string(widths[i] - characters(row[i]) + 2, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  }
}

void print_json(const std::vector<KeyRecord>& keys, std::ostream& out) {
  out << '[';
  const char* separator = "\n  ";
  for (const KeyRecord& key : keys) {
    const std::string expiry = key.expires ? quote_json(format_utc(*key.expires)) : "null";
    const std::string comment = key.comment.empty() ? "null" : quote_for_terminal(key.comment);
    out << separator
        << fmt::format(
               R"({{"id":{},"access_level":{},"user_id":{},"date_expiry":{},"comment":{}}})",
               quote_for_terminal(key.id), quote_for_terminal(key.access_level),
               quote_for_terminal(key.user_id), expiry, comment);
    separator = ",\n  ";
  }
  out << (keys.empty() ? "]\n" : "\n]\n");
}

}  // namespace

Result<std::optional<WallMs>> parse_when(std::string_view text, WallMs now) {
  const Error wrong{
      .message = fmt::format(
          "{} is no time: write never, now, +30d (s, m, h, d, w) or 2027-01-31T12:00:00Z",
          quote_json(text))};
  if (text == "never") return std::optional<WallMs>();
  if (text == "now") return std::optional(now);
  if (!text.starts_with('+')) {
    const std::optional<WallMs> time = parse_utc(text);
    if (!time) return wrong;
    return time;
  }
  constexpr std::pair<char, int64_t> kUnits[] = {
      {'s', 1'000}, {'m', 60'000}, {'h', 3'600'000}, {'d', kDayMs}, {'w', 7 * kDayMs}};
  const auto unit = std::find_if(std::begin(kUnits), std::end(kUnits),
                                 [&](const auto& one) { return one.first == text.back(); });
  if (unit == std::end(kUnits)) return wrong;
  const char* const begin = text.data() + 1;
  const char* const end = text.data() + text.size() - 1;
  int64_t amount = 0;
  const auto [stop, problem] = std::from_chars(begin, end, amount);
  if (problem != std::errc() || stop != end || amount < 0) return wrong;
  if (amount > kAheadMaxMs / unit->second) return wrong;
  return std::optional(now + amount * unit->second);
}

int keys_create(Database& database, const Config& config, const KeysCreate& arguments,
                std::ostream& out, std::ostream& err) {
  if (arguments.user.empty()) return fail(err, kExitUsage, "--user must not be empty");
  for (const auto& [option, text] :
       {std::pair("--user", &arguments.user), std::pair("--comment", &arguments.comment)}) {
    if (is_printable(*text)) continue;
    return fail(err, kExitUsage,
                fmt::format("{}: expected UTF-8 text without control characters", option));
  }
  const auto expires = parse_when(arguments.expires, wall_now_ms());
  if (!expires) return fail(err, kExitUsage, "--expires: " + expires.error().message);

  const std::string token = arguments.hash ? "" : make_token();
  const std::optional<std::string> hash =
      token.empty() ? read_hash(*arguments.hash) : std::optional(to_hex(sha256(token)));
  if (!hash) return fail(err, kExitUsage, "--hash: 64 hexadecimal digits were expected (SHA-256)");

  const auto id = database.create_key({.secret_hex = *hash,
                                       .access_level = config.access_level,
                                       .user_id = arguments.user,
                                       .expires = *expires,
                                       .comment = arguments.comment});
  if (!id) return fail(err, id.error());
  out << (token.empty() ? *id : token) << '\n' << std::flush;
  if (!out) {
    // Nobody has seen the token, and nobody ever can; a hash can be registered again.
    const auto gone = database.delete_key(*id);
    return fail(
        err, kExitOutput,
        fmt::format("the {} could not be printed; key {} {}", token.empty() ? "id" : "token", *id,
                    gone && *gone ? "was withdrawn" : "should be revoked"));
  }
  err << fmt::format("key {} for user {}, access level {}, expires {}\n", *id,
                     printable(arguments.user), config.access_level, show_expiry(*expires));
  if (!token.empty()) err << "the token is shown this once only; the database has its hash\n";
  return 0;
}

int keys_list(Database& database, bool is_json, std::ostream& out, std::ostream& err) {
  const auto keys = database.list_keys();
  if (!keys) return fail(err, keys.error());
  is_json ? print_json(*keys, out) : print_table(*keys, out);
  out.flush();
  return out ? 0 : fail(err, kExitOutput, "the keys could not be printed");
}

int keys_expire(Database& database, const Config& config, const std::string& id,
                const std::string& when, std::ostream& err) {
  const auto time = parse_when(when, wall_now_ms());
  if (!time) return fail(err, kExitUsage, time.error().message);
  const auto is_there = database.set_key_expiry(id, *time);
  if (!is_there) return fail(err, is_there.error());
  if (!*is_there) return fail(err, kExitNotFound, no_such_key(id));
  err << fmt::format("key {} expires {}; {}\n", id, show_expiry(*time), effective_within(config));
  return 0;
}

int keys_revoke(Database& database, const Config& config, const std::string& id,
                std::ostream& err) {
  const auto is_there = database.delete_key(id);
  if (!is_there) return fail(err, is_there.error());
  if (!*is_there) return fail(err, kExitNotFound, no_such_key(id));
  err << fmt::format("key {} revoked; {}\n", id, effective_within(config));
  return 0;
}

}  // namespace llmproxy
