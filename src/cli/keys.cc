// Keys by hand. The rules of a key's use are the database's and the proxy's.
#include "cli/keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ostream>
#include <tuple>
#include <vector>

#include "api/json_edit.h"
#include "base/digest.h"
#include "base/text.h"

namespace llmproxy {
namespace {

constexpr size_t kTokenBytes = 64;  // of chance: 86 characters, as Python's token_urlsafe(64) makes
constexpr size_t kHashDigits = 64;  // SHA-256

// The ledger's bound for a key, kKeyBytesMax, takes more in either database.
constexpr size_t kUserBytesMax = 256;
constexpr size_t kCommentBytesMax = 1024;

constexpr int kStatusUnavailable = 503;  // as the databases say it

int fail_by(std::ostream& err, const Error& error) {
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

// Of a key that no request can use for it.
constexpr const char* kOddExpiry = "unreadable";
constexpr const char* kNoUser = "(none)";

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

std::string quote_key_text(std::string_view text) {
  return json_for_terminal(quote_json(text));
}

void print_keys(const std::vector<KeyRecord>& keys, std::ostream& out) {
  std::vector<std::vector<std::string>> rows = {
      {"ID", "USER", "ACCESS LEVEL", "EXPIRES", "COMMENT"}};
  for (const KeyRecord& key : keys) {
    rows.push_back({key.id, key.user_id.empty() ? kNoUser : key.user_id, key.access_level,
                    key.has_odd_expiry ? kOddExpiry : show_expiry(key.expires), key.comment});
  }
  print_table(rows, out);
}

void print_json(const std::vector<KeyRecord>& keys, std::ostream& out) {
  out << '[';
  const char* separator = "\n  ";
  for (const KeyRecord& key : keys) {
    const std::string expiry = key.has_odd_expiry ? quote_json(kOddExpiry)
                               : key.expires      ? quote_json(format_utc(*key.expires))
                                                  : "null";
    const std::string user = key.user_id.empty() ? "null" : quote_key_text(key.user_id);
    const std::string comment = key.comment.empty() ? "null" : quote_key_text(key.comment);
    out << separator
        << fmt::format(
               R"({{"id":{},"access_level":{},"user_id":{},"date_expiry":{},"comment":{}}})",
               quote_key_text(key.id), quote_key_text(key.access_level), user, expiry, comment);
    separator = ",\n  ";
  }
  out << (keys.empty() ? "]\n" : "\n]\n");
}

}  // namespace

int keys_create(Database& database, const Config& config, const KeysCreate& arguments,
                std::ostream& out, std::ostream& err) {
  if (arguments.user.empty()) return fail(err, kExitUsage, "--user must not be empty");
  for (const auto& [option, text, bytes_max] :
       {std::tuple("--user", &arguments.user, kUserBytesMax),
        std::tuple("--comment", &arguments.comment, kCommentBytesMax)}) {
    if (is_printable(*text) && text->size() <= bytes_max) continue;
    return fail(err, kExitUsage,
                fmt::format("{}: expected UTF-8 text without control characters, at most {} bytes",
                            option, bytes_max));
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
  if (!id) return fail_by(err, id.error());
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
  if (!keys) return fail_by(err, keys.error());
  is_json ? print_json(*keys, out) : print_keys(*keys, out);
  return flush_or_fail(out, err, "the keys");
}

int keys_expire(Database& database, const Config& config, const std::string& id,
                const std::string& when, std::ostream& err) {
  const auto time = parse_when(when, wall_now_ms());
  if (!time) return fail(err, kExitUsage, time.error().message);
  const auto is_there = database.set_key_expiry(id, *time);
  if (!is_there) return fail_by(err, is_there.error());
  if (!*is_there) return fail(err, kExitNotFound, no_such_key(id));
  err << fmt::format("key {} expires {}; {}\n", id, show_expiry(*time), effective_within(config));
  return 0;
}

int keys_revoke(Database& database, const Config& config, const std::string& id,
                std::ostream& err) {
  const auto is_there = database.delete_key(id);
  if (!is_there) return fail_by(err, is_there.error());
  if (!*is_there) return fail(err, kExitNotFound, no_such_key(id));
  err << fmt::format("key {} revoked; {}\n", id, effective_within(config));
  return 0;
}

}  // namespace llmproxy
