// Where user and password begin and end, and the driver's own reading.
#include "db/mongo_uri.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

namespace llmproxy {
namespace {

constexpr std::string_view kEscapes =
    "expected %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %2C for a comma and %25 for % "
    "in user name and password";

// USER or USER:PASSWORD, and what stands before and after it. No @ in the URI: `user_info` has no
// data.
struct Parts {
  std::string_view scheme, user_info, rest;
};

// All before the last @ that does not stand in the options. Rather too much than too little: a
// password that should have been escaped may hold any character.
Parts split(std::string_view uri) {
  const size_t scheme = uri.find("://");
  const size_t begin = scheme == std::string_view::npos ? 0 : scheme + 3;
  const size_t options = uri.find('?', std::min(uri.find('/', begin), uri.size()));
  const size_t at = uri.substr(0, options).rfind('@');
  if (at == std::string_view::npos || at < begin)
    return {uri.substr(0, begin), {}, uri.substr(begin)};
  return {uri.substr(0, begin), uri.substr(begin, at - begin), uri.substr(at)};
}

std::string to_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  return lower;
}

// What follows the ? of `rest`, one by one, as NAME=VALUE.
template <class See>
void each_option(std::string_view rest, See&& see) {
  const size_t question = rest.find('?');
  std::string_view options = question == std::string_view::npos ? "" : rest.substr(question + 1);
  while (!options.empty()) {
    const std::string_view option = options.substr(0, options.find('&'));
    see(option);
    options.remove_prefix(std::min(option.size() + 1, options.size()));
  }
}

// Those that the driver takes by calls of their own, and so counts among no kind.
constexpr std::array kSpecialOptions = {
    MONGOC_URI_AUTHMECHANISM,      MONGOC_URI_AUTHMECHANISMPROPERTIES,
    MONGOC_URI_AUTHSOURCE,         MONGOC_URI_COMPRESSORS,
    MONGOC_URI_GSSAPISERVICENAME,  MONGOC_URI_READCONCERNLEVEL,
    MONGOC_URI_READPREFERENCETAGS, MONGOC_URI_W};

constexpr std::array kSecretOptions = {MONGOC_URI_TLSCERTIFICATEKEYFILEPASSWORD,
                                       MONGOC_URI_SSLCLIENTCERTIFICATEKEYPASSWORD,
                                       MONGOC_URI_AUTHMECHANISMPROPERTIES};

template <class Options>
bool is_among(const Options& options, std::string_view name) {
  return std::any_of(options.begin(), options.end(),
                     [&](const char* option) { return to_lower(name) == option; });
}

bool is_known_option(std::string_view name) {
  const std::string option(name);
  return is_among(kSpecialOptions, name) || mongoc_uri_option_is_int32(option.c_str()) ||
         mongoc_uri_option_is_int64(option.c_str()) || mongoc_uri_option_is_bool(option.c_str()) ||
         mongoc_uri_option_is_utf8(option.c_str());
}

bool is_unambiguous(const Parts& parts) {
  const std::string_view user_info = parts.user_info;
  if (user_info.find_first_of("@/?#,") != std::string_view::npos) return false;
  if (std::count(user_info.begin(), user_info.end(), ':') > 1) return false;
  bool has_value_only = true;
  each_option(parts.rest, [&](std::string_view option) {
    // An @ belongs to the value of an option, or to a password with a ? in it.
    const std::string_view before_at = option.substr(0, option.find('@'));
    const bool is_value = is_known_option(before_at.substr(0, before_at.find('=')));
    if (before_at.size() < option.size() && !is_value) has_value_only = false;
  });
  return has_value_only;
}

// What the driver says about options, without their values. Of its quotes only known names stay.
std::string without_values(std::string text) {
  const size_t value = text.find("\": \"");
  if (value != std::string::npos) text.resize(value + 1);
  for (size_t open = text.find('"'); open != std::string::npos;) {
    const size_t close = text.find('"', open + 1);
    const std::string_view word = std::string_view(text).substr(open + 1, close - open - 1);
    if (close == std::string::npos || !is_known_option(word)) return "an option cannot be read";
    open = text.find('"', close + 1);
  }
  return text;
}

// Why the driver cannot read it. The driver quotes what it does not like, so it is asked about the
// same URI of another user.
std::string explain_refusal(const Parts& parts, std::string_view error) {
  std::string text(error);
  if (parts.user_info.data() != nullptr) {
    const bool has_password = parts.user_info.find(':') != std::string_view::npos;
    const std::string other =
        fmt::format("{}{}{}", parts.scheme, has_password ? "user:password" : "user", parts.rest);
    bson_error_t problem{};
    const MongoUri parsed(mongoc_uri_new_with_error(other.c_str(), &problem));
    if (parsed) return std::string(kEscapes);
    text = problem.message;
  }
  return without_values(std::move(text));
}

}  // namespace

Result<MongoUri> parse_mongo_uri(const std::string& uri) {
  const Parts parts = split(uri);
  if (!is_unambiguous(parts)) return Error{.message = std::string(kEscapes)};
  bson_error_t error{};
  MongoUri parsed(mongoc_uri_new_with_error(uri.c_str(), &error));
  if (!parsed) return Error{.message = explain_refusal(parts, error.message)};
  return parsed;
}

std::vector<std::string> unknown_mongo_options(std::string_view uri) {
  std::vector<std::string> unknown;
  std::string_view secret;  // behind it a name may be a piece of its value
  bool has_unnamed = false;
  each_option(split(uri).rest, [&](std::string_view option) {
    const std::string_view name = option.substr(0, option.find('='));
    if (is_among(kSecretOptions, name)) secret = name;
    if (is_known_option(name)) return;
    if (secret.empty()) {
      unknown.emplace_back(name);
    } else if (!has_unnamed) {
      has_unnamed = true;
      unknown.push_back(fmt::format("what follows {} (in a value, write %26 for &)", secret));
    }
  });
  return unknown;
}

std::string mongo_identity(const mongoc_uri_t& uri, std::string_view collection) {
  if (const char* const name = mongoc_uri_get_srv_hostname(&uri)) {
    return fmt::format("mongodb+srv://{}/{}", to_lower(name), collection);
  }
  std::vector<std::string> hosts;
  for (const mongoc_host_list_t* host = mongoc_uri_get_hosts(&uri); host; host = host->next) {
    const bool is_path = host->family == AF_UNIX;
    hosts.push_back(is_path ? host->host_and_port : to_lower(host->host_and_port));
  }
  std::sort(hosts.begin(), hosts.end());
  std::string identity = fmt::format("mongodb://{}/{}", fmt::join(hosts, ","), collection);
  if (const char* const set = mongoc_uri_get_replica_set(&uri)) {
    identity += fmt::format("?replicaSet={}", set);
  }
  return identity;
}

std::string without_password(std::string text, std::string_view uri) {
  const std::string_view user_info = split(uri).user_info;
  const size_t colon = user_info.find(':');
  if (colon == std::string_view::npos || colon + 1 == user_info.size()) return text;
  const std::string_view password = user_info.substr(colon + 1);
  for (size_t at = text.find(password); at != std::string::npos; at = text.find(password, at + 3)) {
    text.replace(at, password.size(), "***");
  }
  return text;
}

}  // namespace llmproxy
