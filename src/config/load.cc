// Reads the TOML file into a Config: what the file consists of, table by table. Collects every
// problem instead of stopping at the first; no text of a problem holds a value that could be a
// secret.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/cores.h"
#include "base/text.h"
#include "config/config.h"
#include "config/file.h"
#include "config/section.h"
#include "config/settings.h"
#include "config/url.h"

namespace llmproxy {

namespace {

constexpr size_t kFileBytesMax = size_t{1} << 20;
// The library recurses once for each dot of a key: a line of 200,000 dots ends the process.
constexpr size_t kLineBytesMax = 8192;
constexpr size_t kNameBytesMax = 256;    // of a backend
constexpr size_t kTokenBytesMax = 4096;  // of a backend
constexpr size_t kCaBytesMax = size_t{16} << 20;

constexpr std::string_view kDatabaseVariable = "LLMPROXY_DB_URI";
constexpr std::string_view kDatabaseFile = "llm-billing-proxy.db";
constexpr std::array<std::string_view, 5> kTables{"db", "auth", "ledger", "limits", "backends"};
constexpr std::array<std::string_view, 5> kBackendKeys{"url", "token", "verify_ssl", "ca_file",
                                                       "usage"};
// All settings of one table, and the keys that are none.
void read_settings(Section& section, std::string_view table, Config& config) {
  std::vector<std::string_view> known;
  for (const Setting& setting : all_settings()) {
    if (setting.table != table) continue;
    known.push_back(setting.key);
    section.get_setting(setting, config);
  }
  if (table.empty()) known.insert(known.end(), kTables.begin(), kTables.end());
  section.report_unknown_keys(known, true);
}

void read_backend_url(Section& section, Backend& backend) {
  const std::string* const url = section.get<std::string>(
      "url", "expected the URL of the server, such as \"https://llm-server.example.com\"");
  if (url == nullptr) {
    if (!section.has("url")) {
      section.report("url",
                     "missing; expected the URL of the server, such as "
                     "url = \"https://llm-server.example.com\"");
    }
    return;
  }
  if (std::string text = parse_backend_url(*url, backend); !text.empty()) {
    return section.report("url", std::move(text));
  }
  if (std::string text = warn_of_base_path(backend); !text.empty()) {
    section.report("url", std::move(text), false);
  }
}

void read_backend_token(Section& section, Backend& backend) {
  const std::string* const token =
      section.get<std::string>("token", "expected a string: the secret the server wants");
  if (token == nullptr && !section.has("token")) {
    section.report(
        "token", "missing; expected the secret the server wants, or token = \"\" if it wants none");
  }
  if (token == nullptr) return;
  if (std::string text = check_backend_token(*token); !text.empty()) {
    return section.report("token", std::move(text));
  }
  backend.token = *token;
}

void read_ca_file(Section& section, Backend& backend, const ValueChecks& checks) {
  static constexpr std::string_view kExpected =
      "expected the path of a PEM file with the authorities to trust";
  const std::string* const path = section.get<std::string>("ca_file", kExpected);
  if (path == nullptr) return;
  std::string content;
  std::string reason = read_regular_file(*path, kCaBytesMax, content);
  if (reason.empty() && checks.ca_file != nullptr) reason = checks.ca_file(*path);
  if (!reason.empty()) {
    return section.report("ca_file", fmt::format("{}; it {}", kExpected, reason));
  }
  backend.ca_file = *path;
  backend.ca_digest = sha256(content);
}

void read_backend_options(Section& section, Backend& backend) {
  if (const bool* const value = section.get<bool>("verify_ssl", "expected true or false")) {
    backend.verify_ssl = *value;
  }
  static constexpr std::string_view kExpectedUsage =
      "expected \"ask\", \"as_is\" or \"continuous\"";
  if (const std::string* const value = section.get<std::string>("usage", kExpectedUsage)) {
    if (*value == "ask") {
      backend.usage = UsagePolicy::kAsk;
    } else if (*value == "as_is") {
      backend.usage = UsagePolicy::kAsIs;
    } else if (*value == "continuous") {
      backend.usage = UsagePolicy::kContinuous;
    } else {
      section.report("usage", std::string(kExpectedUsage));
    }
  }
}

// [backends.gpt-4.1] is the table "1" in the table "gpt-4": a name with dots was not quoted.
// Reports each such name and returns true.
bool report_unquoted_dots(Section& section, const std::string& name) {
  const toml::table& table = section.table();
  const auto is_table = [](auto&& entry) { return entry.second.is_table(); };
  if (table.empty() || !std::all_of(table.begin(), table.end(), is_table)) return false;
  for (auto&& [key, node] : table) {
    std::string whole = name + "." + std::string(key.str());
    const toml::table* inner = node.as_table();
    while (inner->size() == 1 && inner->begin()->second.is_table()) {
      whole += "." + std::string(inner->begin()->first.str());
      inner = inner->begin()->second.as_table();
    }
    section.report_table(key.source(), fmt::format("a name with dots needs quotes: [backends.{}]",
                                                   written_key(whole)));
  }
  return true;
}

void read_backend(Section& section, const std::string& name, Config& config,
                  const ValueChecks& checks) {
  if (report_unquoted_dots(section, name)) return;
  Backend backend;
  backend.name = name;
  read_backend_url(section, backend);
  read_backend_token(section, backend);
  read_ca_file(section, backend, checks);
  read_backend_options(section, backend);
  section.report_unknown_keys({kBackendKeys.begin(), kBackendKeys.end()}, false);
  config.backends.emplace(name, std::move(backend));
}

void read_backends(Section& top, Config& config, const ValueChecks& checks, Problems& problems) {
  Section backends(top.sub_table("backends"), "backends", problems);
  for (auto&& [key, node] : backends.table()) {
    const std::string name(key.str());
    if (std::string text = check_backend_name(name); !text.empty()) {
      backends.report_key(key, std::move(text));
      continue;
    }
    if (!node.is_table()) {
      backends.sub_table(name);  // reports it
      continue;
    }
    Section section(*node.as_table(), backends.dotted(name), problems);
    read_backend(section, name, config, checks);
  }
  if (backends.table().empty() &&
      (!top.has("backends") || top.table().get("backends")->is_table())) {
    problems.push_back({false, 0, 0, "backends", "none configured; every model will be refused"});
  }
}

void check_memory(Section& limits, const Limits& values) {
  // Bodies get half of it (proxy/memory_budget.h).
  const size_t least = std::max(2 * values.body_bytes_max, values.reply_bytes_max);
  if (values.memory_bytes_max >= least) return;
  limits.report("memory_bytes_max",
                fmt::format("expected at least reply_bytes_max and twice body_bytes_max, {}, found "
                            "{}",
                            least, values.memory_bytes_max));
}

// Tells what is wrong with it by report(text, is_error).
template <class Report>
void judge_database_uri(const std::string& uri, const ValueChecks& checks, Report&& report) {
  bool is_error = true;
  for (const auto check : {checks.database_uri, checks.database_options}) {
    std::string text = check == nullptr ? "" : check(uri);
    if (!text.empty()) return report(std::move(text), is_error);
    is_error = false;
  }
}

void resolve_database(Config& config, std::string_view db_uri_override, const ValueChecks& checks,
                      Problems& problems) {
  if (!db_uri_override.empty()) {
    config.db_uri = db_uri_override;
    const auto report = [&](std::string text, bool is_error) {
      problems.push_back({is_error, 0, 0, std::string(kDatabaseVariable), std::move(text)});
    };
    if (is_database_uri(db_uri_override)) {
      judge_database_uri(config.db_uri, checks, report);
    } else {
      report(fmt::format("{} in this environment variable", kExpectedDatabaseUri), true);
    }
  } else if (config.db_uri.empty()) {
    const std::string_view slash = config.data_dir.ends_with('/') ? "" : "/";
    config.db_uri = fmt::format("sqlite://{}{}{}", config.data_dir, slash, kDatabaseFile);
  }
}

void resolve_threads(Config& config) {
  if (config.threads == 0) {
    const auto most = std::find_if(all_settings().begin(), all_settings().end(),
                                   [](const Setting& setting) { return setting.key == "threads"; });
    config.threads = std::min(usable_cores(), static_cast<unsigned>(most->max));
  }
}

void read_file(const toml::table& root, Config& config, const ValueChecks& checks,
               Problems& problems) {
  Section top(root, "", problems);
  read_settings(top, "", config);
  for (const std::string_view name : {"db", "auth", "ledger", "limits"}) {
    Section section(top.sub_table(name), std::string(name), problems);
    read_settings(section, name, config);
    if (name == "limits") check_memory(section, config.limits);
    if (name != "db" || config.db_uri.empty()) continue;
    judge_database_uri(config.db_uri, checks, [&](std::string text, bool is_error) {
      section.report("uri", std::move(text), is_error);
    });
  }
  read_backends(top, config, checks, problems);
}

// The library quotes what it read: a broken line of a token would end up in the log. Keys of
// "cannot redefine" and single characters stay, all else between quotes goes.
std::string without_quoted_input(std::string_view text) {
  if (text.find("cannot redefine") != std::string_view::npos) return std::string(text);
  std::string kept;
  while (!text.empty()) {
    const size_t open_quote = text.find('\'');
    const size_t close_quote =
        open_quote == std::string_view::npos ? open_quote : text.find('\'', open_quote + 2);
    if (close_quote == std::string_view::npos) break;
    const size_t length = close_quote - open_quote - 1;
    kept += text.substr(0, open_quote);
    kept += length > 4 ? "'...'" : text.substr(open_quote, length + 2);  // 4: one UTF-8 character
    text.remove_prefix(close_quote + 1);
  }
  return kept += text.substr(0, text.find('\''));
}

LoadedConfig failed(ConfigProblem problem) {
  return {nullptr, {std::move(problem)}};
}

// Line number of the first line that is too long; 0 for none.
int find_long_line(std::string_view text) {
  for (int line = 1; !text.empty(); ++line) {
    const size_t length = std::min(text.find('\n'), text.size());
    if (length > kLineBytesMax) return line;
    text.remove_prefix(std::min(length + 1, text.size()));
  }
  return 0;
}

}  // namespace

std::string check_backend_name(std::string_view name) {
  if (!name.empty() && name.size() <= kNameBytesMax && is_printable(name)) return "";
  return fmt::format("expected a name of 1 to {} bytes without control characters", kNameBytesMax);
}

std::string check_backend_token(std::string_view token) {
  const bool is_plain =
      std::all_of(token.begin(), token.end(), [](char c) { return c >= 0x21 && c <= 0x7e; });
  if (is_plain && token.size() <= kTokenBytesMax) return "";
  return fmt::format("expected at most {} characters, ASCII without blanks and control characters",
                     kTokenBytesMax);
}

std::string warn_of_base_path(const Backend& backend) {
  if (!backend.base_path.ends_with("/v1")) return "";
  return "requests will go to .../v1/v1/...: the request's own path, /v1 included, follows the url";
}

LoadedConfig load_config(const std::string& path, std::string_view db_uri_override,
                         const ValueChecks& checks) {
  std::string text;
  if (std::string reason = read_regular_file(path, kFileBytesMax, text); !reason.empty()) {
    return failed({true, 0, 0, "", std::move(reason)});
  }
  return parse_config(text, path, db_uri_override, checks);
}

LoadedConfig parse_config(std::string_view text, const std::string& path,
                          std::string_view db_uri_override, const ValueChecks& checks) {
  if (const int line = find_long_line(text); line > 0) {
    return failed(
        {true, line, 1, "", fmt::format("expected lines of at most {} bytes", kLineBytesMax)});
  }
  toml::table root;
  try {
    root = toml::parse(text);
  } catch (const toml::parse_error& error) {
    const toml::source_position place = error.source().begin;
    return failed({true, static_cast<int>(place.line), static_cast<int>(place.column), "",
                   "not valid TOML: " + without_quoted_input(error.description())});
  }
  auto config = std::make_shared<Config>();
  config->path = path;
  LoadedConfig loaded;
  read_file(root, *config, checks, loaded.problems);
  resolve_threads(*config);
  resolve_database(*config, db_uri_override, checks, loaded.problems);
  std::stable_sort(loaded.problems.begin(), loaded.problems.end(),
                   [](const auto& a, const auto& b) {
                     return std::tie(a.line, a.column) < std::tie(b.line, b.column);
                   });
  const auto is_error = [](const ConfigProblem& problem) { return problem.is_error; };
  if (std::none_of(loaded.problems.begin(), loaded.problems.end(), is_error))
    loaded.config = config;
  return loaded;
}

}  // namespace llmproxy
