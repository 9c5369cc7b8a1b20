// Tests of config/load.cc: every kind of mistake with its line, and the files that must load.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "base/cores.h"
#include "config/config.h"
#include "config/settings.h"

namespace llmproxy {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

LoadedConfig parse(std::string_view text, std::string_view db_uri_override = "") {
  return parse_config(text, "c.toml", db_uri_override);
}

// All problems, one a line, as they are printed.
std::string problems_of(const LoadedConfig& loaded) {
  std::string all;
  for (const ConfigProblem& problem : loaded.problems) {
    all += format_problem("c.toml", problem) + "\n";
  }
  return all;
}

constexpr std::string_view kBackend = "\n[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\n";
constexpr std::string_view kNoBackends =
    "c.toml: warning: backends: none configured; every model will be refused\n";

TEST(ParseConfig, OriginalFileLoads) {
  const LoadedConfig loaded = parse(R"(log_level = "INFO"
host = "0.0.0.0"
port = 8080
timeout_connect = 5

[db]
uri = "mongodb://localhost:27017/?serverSelectionTimeoutMS=2000"

[backends.llama31-70b]
url = "https://llm-server.example.com"
token = "MY-TOKEN1"

[backends.llama3-sqlcoder-8b]
url = "https://llm-server2.example.com"
token = "MY-TOKEN2"

[backends.llama31-8b]
url = "https://llm-server-bis.example.com"
token = "MY-TOKEN3"
)");
  ASSERT_EQ(problems_of(loaded), "");
  const Config& config = *loaded.config;
  EXPECT_EQ(config.path, "c.toml");
  EXPECT_EQ(config.log_level, LogLevel::kInfo);
  EXPECT_EQ(config.host, "0.0.0.0");
  EXPECT_EQ(config.port, 8080);
  EXPECT_EQ(config.timeout_connect, Milliseconds(5000));
  EXPECT_EQ(config.db_uri, "mongodb://localhost:27017/?serverSelectionTimeoutMS=2000");
  ASSERT_EQ(config.backends.size(), 3U);
  const Backend* const backend = config.find_backend("llama3-sqlcoder-8b");
  ASSERT_NE(backend, nullptr);
  EXPECT_EQ(backend->name, "llama3-sqlcoder-8b");
  EXPECT_EQ(backend->url, "https://llm-server2.example.com");
  EXPECT_EQ(backend->host, "llm-server2.example.com");
  EXPECT_EQ(backend->port, 443);
  EXPECT_EQ(backend->token, "MY-TOKEN2");
  EXPECT_TRUE(backend->verify_ssl);
  EXPECT_EQ(backend->usage, UsagePolicy::kAsk);
}

TEST(ParseConfig, EmptyFileGivesDefaultsAndAWarning) {
  const LoadedConfig loaded = parse("");
  EXPECT_EQ(problems_of(loaded), kNoBackends);
  ASSERT_NE(loaded.config, nullptr);
  EXPECT_EQ(loaded.config->host, "127.0.0.1");
  EXPECT_EQ(loaded.config->db_uri, "sqlite://./data/llm-billing-proxy.db");
  EXPECT_EQ(loaded.config->threads, std::min(usable_cores(), 256U));
  EXPECT_EQ(problems_of(parse("[backends]\n")), kNoBackends);
  EXPECT_EQ(problems_of(parse(kBackend)), "");
}

constexpr std::string_view kEverySetting = R"(log_level = "debug"
host = "::1"
port = 0
threads = 3
data_dir = "/var/lib/p"
timeout_connect = 0.25
timeout_read = 1
shutdown_timeout = 2
flush_timeout = 3
[auth]
access_level = "LLM"
key_ttl = 4
key_unknown_ttl = 5
key_stale_max = 6
keys_max = 7
keys_unknown_max = 8
lookups_max = 9
[ledger]
max_bytes = 16777216
commit_gap = 0.002
commit_timeout = 0.3
ship_interval = 0.0104
max_replay_age = 3600.5
[limits]
connections_max = 11
head_bytes_max = 1200
headers_max = 13
target_bytes_max = 140
body_bytes_max = 1500
reply_bytes_max = 1600
memory_bytes_max = 1700000
timeout_idle = 18
timeout_head = 19
timeout_body = 20
body_rate_min = 0
timeout_write = 21
[backends.x]
url = "http://h:1/p/"
token = ""
verify_ssl = false
ca_file = "config.toml"
usage = "continuous"
[backends."a.b \"c\""]
url = "http://h"
token = "!~"
usage = "as_is"
)";

TEST(ParseConfig, EverySettingArrives) {
  const LoadedConfig loaded = parse(kEverySetting);
  ASSERT_EQ(problems_of(loaded), "");
  const Config& config = *loaded.config;
  EXPECT_EQ(config.log_level, LogLevel::kDebug);
  EXPECT_EQ(config.host, "::1");
  EXPECT_EQ(config.port, 0);
  EXPECT_EQ(config.threads, 3U);
  EXPECT_EQ(config.db_uri, "sqlite:///var/lib/p/llm-billing-proxy.db");
  EXPECT_EQ(config.timeout_connect, Milliseconds(250));
  EXPECT_EQ(config.access_level, "LLM");
  EXPECT_EQ(config.ledger_bytes_max, size_t{16} << 20);
  EXPECT_EQ(config.commit_gap, Milliseconds(2));
  EXPECT_EQ(config.commit_timeout, Milliseconds(300));
  EXPECT_EQ(config.ship_interval, Milliseconds(10));
  EXPECT_EQ(config.max_replay_age, Milliseconds(3'600'500));
  EXPECT_EQ(config.limits.headers_max, 13U);
  EXPECT_EQ(config.limits.body_rate_min, 0U);
  EXPECT_EQ(config.limits.timeout_write, Milliseconds(21'000));
  Config defaults;
  defaults.threads = usable_cores() == 3 ? 2 : usable_cores();
  const ConfigChange change = compare_configs(defaults, config);
  EXPECT_EQ(change.live.size() + change.needs_restart.size(), all_settings().size());
  const Backend& backend = config.backends.at("x");
  EXPECT_EQ(backend.base_path, "/p");
  EXPECT_EQ(backend.token, "");
  EXPECT_FALSE(backend.verify_ssl);
  EXPECT_EQ(backend.ca_file, "config.toml");
  EXPECT_EQ(backend.usage, UsagePolicy::kContinuous);
  EXPECT_EQ(config.backends.at("a.b \"c\"").token, "!~");
  EXPECT_EQ(config.backends.at("a.b \"c\"").usage, UsagePolicy::kAsIs);
}

TEST(ParseConfig, BothBoundsOfEveryNumberAreAllowedAndNothingBeyond) {
  for (const Setting& setting : all_settings()) {
    if (setting.is_allowed != nullptr || setting.key == "log_level") continue;
    const bool is_time = setting.bounds().find('.') != std::string::npos ||
                         std::holds_alternative<Milliseconds Config::*>(setting.member) ||
                         std::holds_alternative<Milliseconds Limits::*>(setting.member);
    const auto file = [&](double value) {
      std::ostringstream text;
      text.precision(15);
      if (!setting.table.empty()) text << "[" << setting.table << "]\n";
      text << setting.key << " = " << value << "\n";
      // The lowest memory goes with lower bodies, the highest bodies with more memory.
      if (setting.key == "memory_bytes_max") text << "body_bytes_max=1024\nreply_bytes_max=1024\n";
      if (setting.key == "body_bytes_max") text << "memory_bytes_max=2147483648\n";
      text << kBackend;
      return text.str();
    };
    const double step = is_time ? 0.001 : 1;
    EXPECT_EQ(problems_of(parse(file(setting.min))), "");
    EXPECT_EQ(problems_of(parse(file(setting.max))), "");
    for (const double value : {setting.min - step, setting.max + step}) {
      const LoadedConfig loaded = parse(file(value));
      EXPECT_EQ(loaded.config, nullptr) << file(value);
      ASSERT_EQ(loaded.problems.size(), 1U) << file(value);
      EXPECT_EQ(loaded.problems[0].key, setting.dotted_key());
      EXPECT_NE(loaded.problems[0].text.find(", " + setting.bounds() + ", found "),
                std::string::npos)
          << loaded.problems[0].text;
    }
  }
}

struct Bad {
  std::string text;
  const char* problems;
};

TEST(ParseConfig, BadSettings) {
  const Bad cases[] = {
      {"port = 70000",
       "c.toml:1:8: error: port: expected a whole number, 0 to 65535, found 70000\n"},
      {"port = -1", "c.toml:1:8: error: port: expected a whole number, 0 to 65535, found -1\n"},
      {"port = \"8080\"",
       "c.toml:1:8: error: port: expected a whole number, 0 to 65535, found a string\n"},
      {"port = 80.5",
       "c.toml:1:8: error: port: expected a whole number, 0 to 65535, found a number with a "
       "fraction\n"},
      {"port = [1]",
       "c.toml:1:8: error: port: expected a whole number, 0 to 65535, found an array\n"},
      {"[port]\nx = 1",
       "c.toml:1:1: error: port: expected a whole number, 0 to 65535, found a table\n"},
      {"timeout_connect = 0",
       "c.toml:1:19: error: timeout_connect: expected seconds, 0.01 to 600, found 0\n"},
      {"timeout_connect = inf",
       "c.toml:1:19: error: timeout_connect: expected seconds, 0.01 to 600, found inf\n"},
      {"timeout_connect = nan",
       "c.toml:1:19: error: timeout_connect: expected seconds, 0.01 to 600, found nan\n"},
      {"timeout_connect = 9223372036854775807",
       "c.toml:1:19: error: timeout_connect: expected seconds, 0.01 to 600, found "
       "9223372036854775807\n"},
      {"timeout_connect = -9007199254740993",
       "c.toml:1:19: error: timeout_connect: expected seconds, 0.01 to 600, found "
       "-9007199254740993\n"},
      {"timeout_connect = true",
       "c.toml:1:19: error: timeout_connect: expected seconds, 0.01 to 600, found true or false\n"},
      {"timeout_connect = 1979-05-27",
       "c.toml:1:19: error: timeout_connect: expected seconds, 0.01 to 600, found a date or "
       "time\n"},
      {"log_level = \"verbose\"",
       "c.toml:1:13: error: log_level: expected \"DEBUG\", \"INFO\", \"WARNING\", \"ERROR\" or "
       "\"CRITICAL\"\n"},
      {"log_level = 10",
       "c.toml:1:13: error: log_level: expected \"DEBUG\", \"INFO\", \"WARNING\", \"ERROR\" or "
       "\"CRITICAL\", found a whole number\n"},
      {"host = \"0.0.0.0:80\"",
       "c.toml:1:8: error: host: expected an IPv4 or IPv6 address or a host name, without port or "
       "brackets\n"},
      {"data_dir = \"\"",
       "c.toml:1:12: error: data_dir: expected a string that is not empty and has no control "
       "characters\n"},
      {"data_dir = \"a\\nb\"",
       "c.toml:1:12: error: data_dir: expected a string that is not empty and has no control "
       "characters\n"},
      {"data_dir = \"a\\u0085b\"",
       "c.toml:1:12: error: data_dir: expected a string that is not empty and has no control "
       "characters\n"},
      {"[db]\nuri = \"postgres://u:p@h/db\"",
       "c.toml:2:7: error: db.uri: expected mongodb://..., mongodb+srv://..., "
       "sqlite://relative/path or sqlite:///absolute/path\n"},
      {"[db]\nuri = 5",
       "c.toml:2:7: error: db.uri: expected mongodb://..., mongodb+srv://..., "
       "sqlite://relative/path or sqlite:///absolute/path, found a whole number\n"},
      {"db = \"mongodb://u:p@h\"",
       "c.toml:1:6: error: db: expected a table, written [db], found a string\n"},
      {"[[limits]]",
       "c.toml:1:1: error: limits: expected a table, written [limits], found an array\n"},
      {"[limits]\nmemory_bytes_max = 10000000",
       "c.toml:2:20: error: limits.memory_bytes_max: expected at least reply_bytes_max and "
       "twice body_bytes_max, 67108864, found 10000000\n"},
  };
  for (const Bad& c : cases) {
    const LoadedConfig loaded = parse(c.text + std::string(kBackend));
    EXPECT_EQ(problems_of(loaded), c.problems) << c.text;
    EXPECT_EQ(loaded.config, nullptr);
  }
}

TEST(ParseConfig, BodiesFitInTheirHalfOfTheMemory) {
  const auto problems = [](const char* memory) {
    return problems_of(parse(std::string("[limits]\nbody_bytes_max = 3000000\nreply_bytes_max = "
                                         "5000000\nmemory_bytes_max = ") +
                             memory + "\n" + std::string(kBackend)));
  };
  EXPECT_EQ(problems("6000000"), "");
  EXPECT_EQ(problems("5999999"),
            "c.toml:4:20: error: limits.memory_bytes_max: expected at least reply_bytes_max and "
            "twice body_bytes_max, 6000000, found 5999999\n");
}

TEST(ParseConfig, UnknownKeys) {
  const Bad cases[] = {
      {"colour = 1", "c.toml:1:1: error: colour: unknown key\n"},
      {"prot = 1", "c.toml:1:1: error: prot: unknown key; did you mean `port`?\n"},
      {"PORT = 1", "c.toml:1:1: error: PORT: unknown key; did you mean `port`?\n"},
      {"timeout_conect = 1",
       "c.toml:1:1: error: timeout_conect: unknown key; did you mean `timeout_connect`?\n"},
      {"x = 1", "c.toml:1:1: error: x: unknown key\n"},
      {"key_ttl = 1", "c.toml:1:1: error: key_ttl: unknown key here; it belongs in [auth]\n"},
      {"[auth]\ntimeout_read = 1",
       "c.toml:2:1: error: auth.timeout_read: unknown key here; it belongs at the top of the file, "
       "before the first [table]\n"},
      {"[limits]\ntimeout_read = 1",
       "c.toml:2:1: error: limits.timeout_read: unknown key here; it belongs at the top of the "
       "file, before the first [table]\n"},
      {"[backends.y]\nurl = \"http://h\"\ntoken = \"t\"\ntimeout_connect = 5",
       "c.toml:4:1: error: backends.y.timeout_connect: unknown key here; it belongs at the top of "
       "the file, before the first [table]\n"},
      {"[db]\nurl = \"x\"", "c.toml:2:1: error: db.url: unknown key; did you mean `uri`?\n"},
      {"[limit]\n", "c.toml:1:2: error: limit: unknown key; did you mean `limits`?\n"},
      {"[limits.more]\na = 1", "c.toml:1:9: error: limits.more: unknown key\n"},
      {"\"a b\\n\" = 1", "c.toml:1:1: error: \"a b\\u000a\": unknown key\n"},
  };
  for (const Bad& c : cases) {
    const LoadedConfig loaded = parse(c.text + std::string(kBackend));
    EXPECT_EQ(loaded.config, nullptr);
    EXPECT_EQ(problems_of(loaded), c.problems) << c.text;
  }
}

const Bad kBadBackends[] = {
    {"[backends.x]\ntoken = \"t\"",
     "c.toml:1:1: error: backends.x.url: missing; expected the URL of the server, such as url = "
     "\"https://llm-server.example.com\"\n"},
    {"[backends.x]\nurl = \"http://h\"",
     "c.toml:1:1: error: backends.x.token: missing; expected the secret the server wants, or "
     "token "
     "= \"\" if it wants none\n"},
    {"[backends.x]\nurl = 5\ntoken = \"t\"",
     "c.toml:2:7: error: backends.x.url: expected the URL of the server, such as "
     "\"https://llm-server.example.com\", found a whole number\n"},
    {"[backends.x]\nurl = \"h:80\"\ntoken = \"t\"",
     "c.toml:2:7: error: backends.x.url: expected a URL that begins with http:// or https://\n"},
    {"[backends.x]\nurl = \"http://u:p@h\"\ntoken = \"t\"",
     "c.toml:2:7: error: backends.x.url: expected a URL without user and password: the server's "
     "secret goes into `token`\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = 5",
     "c.toml:3:9: error: backends.x.token: expected a string: the secret the server wants, found "
     "a "
     "whole number\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"a b\"",
     "c.toml:3:9: error: backends.x.token: expected at most 4096 characters, ASCII without "
     "blanks "
     "and control characters\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"a\\r\\nb\"",
     "c.toml:3:9: error: backends.x.token: expected at most 4096 characters, ASCII without "
     "blanks "
     "and control characters\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"\\u00fc\"",
     "c.toml:3:9: error: backends.x.token: expected at most 4096 characters, ASCII without "
     "blanks "
     "and control characters\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"" + std::string(4097, 't') + "\"",
     "c.toml:3:9: error: backends.x.token: expected at most 4096 characters, ASCII without "
     "blanks "
     "and control characters\n"},
    {"[backends.x]\nuri = \"http://h\"\ntoken = \"t\"",
     "c.toml:1:1: error: backends.x.url: missing; expected the URL of the server, such as url = "
     "\"https://llm-server.example.com\"\n"
     "c.toml:2:1: error: backends.x.uri: unknown key; did you mean `url`?\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\nverify_ssl = \"no\"",
     "c.toml:4:14: error: backends.x.verify_ssl: expected true or false, found a string\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\nusage = \"asis\"",
     "c.toml:4:9: error: backends.x.usage: expected \"ask\", \"as_is\" or \"continuous\"\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\nca_file = \"/not/there\"",
     "c.toml:4:11: error: backends.x.ca_file: expected the path of a PEM file with the "
     "authorities "
     "to trust; it cannot be opened: No such file or directory\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\nca_file = \"a\\u0000b\"",
     "c.toml:4:11: error: backends.x.ca_file: expected the path of a PEM file with the "
     "authorities "
     "to trust; it cannot be opened: Invalid argument\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\nca_file = \"/dev/zero\"",
     "c.toml:4:11: error: backends.x.ca_file: expected the path of a PEM file with the "
     "authorities "
     "to trust; it is a pipe, a socket or a device; expected a regular file\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\nca_file = \"/\"",
     "c.toml:4:11: error: backends.x.ca_file: expected the path of a PEM file with the "
     "authorities "
     "to trust; it is a directory; expected a regular file\n"},
    {"[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\nca_file = \"\"",
     "c.toml:4:11: error: backends.x.ca_file: expected the path of a PEM file with the "
     "authorities "
     "to trust; it cannot be opened: No such file or directory\n"},
    {"[backends]\nx = \"http://h\"",
     "c.toml:2:5: error: backends.x: expected a table, written [backends.x], found a string\n"},
    {"backends = 5",
     "c.toml:1:12: error: backends: expected a table, written [backends], found a whole "
     "number\n"},
    {"[[backends]]\nurl = \"http://h\"",
     "c.toml:1:1: error: backends: expected a table, written [backends], found an array\n"},
    {"[backends.\"\"]\nurl = \"http://h\"\ntoken = \"t\"",
     "c.toml:1:11: error: backends.\"\": expected a name of 1 to 256 bytes without control "
     "characters\n"},
    {"[backends.\"a\\u0007\"]\nurl = \"http://h\"\ntoken = \"t\"",
     "c.toml:1:11: error: backends.\"a\\u0007\": expected a name of 1 to 256 bytes without "
     "control "
     "characters\n"},
    {"[backends.\"a\\u009b\"]\nurl = \"http://h\"\ntoken = \"t\"",
     "c.toml:1:11: error: backends.\"a\\u009b\": expected a name of 1 to 256 bytes without "
     "control characters\n"},
    {"[backends.gpt-4.1]\nurl = \"http://h\"\ntoken = \"t\"\n"
     "[backends.gpt-4.1-mini]\nurl = \"http://h\"\ntoken = \"t\"",
     "c.toml:1:17: error: backends.gpt-4: a name with dots needs quotes: [backends.\"gpt-4.1\"]\n"
     "c.toml:4:17: error: backends.gpt-4: a name with dots needs quotes: "
     "[backends.\"gpt-4.1-mini\"]\n"},
    {"[backends.a.b.c]\nurl = \"http://h\"",
     "c.toml:1:13: error: backends.a: a name with dots needs quotes: [backends.\"a.b.c\"]\n"},
};
TEST(ParseConfig, BadBackends) {
  for (const Bad& c : kBadBackends) {
    const LoadedConfig loaded = parse(c.text);
    EXPECT_EQ(problems_of(loaded), c.problems) << c.text;
    EXPECT_EQ(loaded.config, nullptr);
  }
}

TEST(ParseConfig, BaseUrlWithV1IsWarnedOf) {
  const LoadedConfig loaded = parse("[backends.x]\nurl = \"https://h/v1/\"\ntoken = \"t\"");
  EXPECT_NE(loaded.config, nullptr);
  EXPECT_EQ(problems_of(loaded),
            "c.toml:2:7: warning: backends.x.url: requests will go to .../v1/v1/...: the request's "
            "own path, /v1 included, follows the url\n");
}

TEST(ParseConfig, AllProblemsAtOnceInTheOrderOfTheFile) {
  const LoadedConfig loaded = parse(R"(prot = 1
log_level = 1
[limits]
zzz = 1
headers_max = 1
[backends.b]
token = ""
[auth]
key_ttl = -1
[backends.a]
url = "x"
)");
  Names keys;
  for (const ConfigProblem& problem : loaded.problems) keys.push_back(problem.key);
  EXPECT_EQ(keys, (Names{"prot", "log_level", "limits.zzz", "limits.headers_max", "backends.b.url",
                         "auth.key_ttl", "backends.a.token", "backends.a.url"}));
}

TEST(ParseConfig, SyntaxErrors) {
  const Bad cases[] = {
      {"port 8080",
       "c.toml:1:6: error: not valid TOML: Error while parsing key-value pair: expected '=', saw "
       "'8'\n"},
      {"port = 1\nport = 2",
       "c.toml:2:8: error: not valid TOML: Error while parsing key-value pair: cannot redefine "
       "existing integer 'port'\n"},
      {"a = 99999999999999999999",
       "c.toml:1:25: error: not valid TOML: Error while parsing decimal integer: '...' is not "
       "representable in 64 bits\n"},
      {"a = \"\xff\"", "c.toml:1:5: error: not valid TOML: Encountered invalid utf-8 sequence\n"},
  };
  for (const Bad& c : cases) EXPECT_EQ(problems_of(parse(c.text)), c.problems) << c.text;
}

TEST(ParseConfig, EndlessLinesAreRefusedUnparsed) {
  std::string dots;
  for (int i = 0; i < 200'000; ++i) dots += "a.";
  EXPECT_EQ(problems_of(parse("b = 1\n" + dots + "a = 1\n")),
            "c.toml:2:1: error: expected lines of at most 8192 bytes\n");
  EXPECT_NE(parse("# " + std::string(8190, 'x') + "\n" + dots.substr(0, 8000) + "a = 1\n")
                .problems[0]
                .text,
            "expected lines of at most 8192 bytes");
}

// No mistake in the line of a secret makes a problem that shows more than one character of it.
TEST(ParseConfig, NoProblemShowsASecret) {
  const std::string secrets[] = {"sk-9f8e7d6c5b4a",         "qX7vK2mZ9wT4",
                                 "31415926535897932384626", "2026-11-23T10:00:00.5",
                                 "0x9f8e7d6cSECRET",        "1e5a7b3c9d"};
  const std::string_view extras[] = {"",  "\"", "'", "\\", "\n", " ",
                                     "#", "=",  "{", "[",  "]",  "\x01"};
  for (const std::string& secret : secrets) {
    const std::string lines[] = {
        "[backends.x]\nurl = \"http://h\"\ntoken = \"" + secret + "\"\n",
        "[backends.x]\nurl = \"http://h\"\ntoken = " + secret + "\n",
        "[backends.x]\ntoken = \"t\"\nurl = \"http://u:" + secret + "@h\"\n",
        "[db]\nuri = \"postgres://u:" + secret + "@h\"\n",
        "[db]\nuri = \"mongodb://u:" + secret + "@h\"\nx = 1\n",
    };
    for (const std::string& line : lines) {
      const size_t start = line.rfind('\n', line.size() - 2);
      for (size_t at = start; at < line.size(); ++at) {
        for (const std::string_view extra : extras) {
          for (const size_t removed : {0U, 1U}) {
            std::string text = line;
            text.replace(at, removed, extra);
            const std::string problems = problems_of(parse(text));
            for (size_t part = 0; part + 4 <= secret.size(); ++part) {
              ASSERT_EQ(problems.find(secret.substr(part, 4)), std::string::npos) << text << "\n"
                                                                                  << problems;
            }
          }
        }
      }
    }
  }
}

TEST(ParseConfig, EnvironmentOverridesTheDatabase) {
  const std::string file = "[db]\nuri = \"mongodb://a\"\n" + std::string(kBackend);
  EXPECT_EQ(parse(file).config->db_uri, "mongodb://a");
  EXPECT_EQ(parse(file, "sqlite://b").config->db_uri, "sqlite://b");
  EXPECT_EQ(parse(kBackend, "mongodb://b").config->db_uri, "mongodb://b");
  const LoadedConfig loaded = parse(file, "http://u:secret@h");
  EXPECT_EQ(loaded.config, nullptr);
  EXPECT_EQ(problems_of(loaded),
            "c.toml: error: LLMPROXY_DB_URI: expected mongodb://..., mongodb+srv://..., "
            "sqlite://relative/path or sqlite:///absolute/path in this environment variable\n");
}

constexpr ValueChecks kRefuseAll = {[](const std::string& uri) -> std::string {
                                      return uri.ends_with("good") ? "" : "no such database";
                                    },
                                    nullptr,
                                    [](const std::string& path) -> std::string {
                                      return path == "LICENSE" ? "" : "holds no certificate";
                                    }};

TEST(ParseConfig, WhatOthersJudgeIsToldInItsPlaceAmongAllElse) {
  const LoadedConfig loaded = parse_config(
      "prot = 1\n[db]\nuri = \"mongodb://bad\"\n[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\n"
      "ca_file = \"config.toml\"\nusage = 1\n",
      "c.toml", "mongodb://worse", kRefuseAll);
  EXPECT_EQ(loaded.config, nullptr);
  EXPECT_EQ(problems_of(loaded),
            "c.toml: error: LLMPROXY_DB_URI: no such database\n"
            "c.toml:1:1: error: prot: unknown key; did you mean `port`?\n"
            "c.toml:3:7: error: db.uri: no such database\n"
            "c.toml:7:11: error: backends.x.ca_file: expected the path of a PEM file with the "
            "authorities to trust; it holds no certificate\n"
            "c.toml:8:9: error: backends.x.usage: expected \"ask\", \"as_is\" or \"continuous\", "
            "found a whole number\n");
  EXPECT_EQ(problems_of(parse_config("[db]\nuri = \"mongodb://good\"\n" + std::string(kBackend) +
                                         "ca_file = \"LICENSE\"\n",
                                     "c.toml", "", kRefuseAll)),
            "");
  EXPECT_EQ(problems_of(parse_config("[db]\nuri = \"postgres://bad\"\n" + std::string(kBackend),
                                     "c.toml", "", kRefuseAll)),
            "c.toml:2:7: error: db.uri: expected mongodb://..., mongodb+srv://..., "
            "sqlite://relative/path or sqlite:///absolute/path\n")
      << "told once";
}

TEST(ParseConfig, AnOptionOfTheDatabaseThatNobodyKnowsIsAWarning) {
  const ValueChecks checks = {nullptr, [](const std::string&) { return std::string("odd"); }};
  const LoadedConfig loaded = parse_config("[db]\nuri = \"mongodb://h\"\n" + std::string(kBackend),
                                           "c.toml", "mongodb://other", checks);
  EXPECT_NE(loaded.config, nullptr);
  EXPECT_EQ(problems_of(loaded),
            "c.toml: warning: LLMPROXY_DB_URI: odd\nc.toml:2:7: warning: db.uri: odd\n");
}

TEST(BackendRules, AreOfTheCommandLineToo) {
  EXPECT_EQ(check_backend_name("it's \"a\" model/\xF0\x9F\xA6\x99"), "");
  for (const std::string& name :
       {std::string(), std::string(257, 'x'), std::string("a\nb"), std::string("a\xff")}) {
    EXPECT_NE(check_backend_name(name), "") << name;
  }
  EXPECT_EQ(check_backend_token(""), "");
  EXPECT_EQ(check_backend_token("!~"), "");
  EXPECT_NE(check_backend_token("a b"), "");
  EXPECT_NE(check_backend_token("a\r\nX: y"), "");
}

class LoadConfig : public testing::Test {
 protected:
  LoadConfig() {
    std::string name = (fs::temp_directory_path() / "config-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) abort();
    dir_ = name;
  }
  ~LoadConfig() override { fs::remove_all(dir_); }

  std::string put(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ / name) << text;
    return dir_ / name;
  }
  static std::string problem(const std::string& path) {
    const LoadedConfig loaded = load_config(path, "");
    EXPECT_EQ(loaded.config, nullptr);
    return loaded.problems.size() == 1 ? format_problem("F", loaded.problems[0])
                                       : "not one problem";
  }

  fs::path dir_;
};

TEST_F(LoadConfig, ReadsAFile) {
  const std::string path = put("c.toml", "port = 7\n" + std::string(kBackend));
  const LoadedConfig loaded = load_config(path, "");
  ASSERT_NE(loaded.config, nullptr);
  EXPECT_EQ(loaded.config->port, 7);
  EXPECT_EQ(loaded.config->path, path);
}

TEST_F(LoadConfig, WhatIsNoFileHasItsOwnLine) {
  EXPECT_EQ(problem(dir_ / "none.toml"), "F: error: cannot be opened: No such file or directory");
  EXPECT_EQ(problem(dir_), "F: error: is a directory; expected a regular file");
  EXPECT_EQ(problem(put("c.toml", "") + "/x"), "F: error: cannot be opened: Not a directory");
  EXPECT_EQ(problem(put("big.toml", std::string((1 << 20) + 1, '\n'))),
            "F: error: is too long; expected at most 1048576 bytes");
}

TEST_F(LoadConfig, NeverWaitsForAPipe) {
  const std::string path = dir_ / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const std::string expected = "F: error: is a pipe, a socket or a device; expected a regular file";
  EXPECT_EQ(problem(path), expected);
  EXPECT_EQ(problem("/dev/zero"), expected);
}

TEST_F(LoadConfig, OtherContentOfACaFileIsAnotherBackend) {
  const std::string path = put("ca.pem", "one");
  const std::string file = std::string(kBackend) + "ca_file = \"" + path + "\"\n";
  const auto first = parse(file).config, same = parse(file).config;
  EXPECT_EQ(compare_configs(*first, *same).changed, Names{});
  put("ca.pem", "two");
  EXPECT_EQ(compare_configs(*first, *parse(file).config).changed, Names{"x"});
}

TEST_F(LoadConfig, UnreadableFile) {
  const std::string path = put("c.toml", "");
  fs::permissions(path, fs::perms::none);
  const bool is_root = geteuid() == 0;  // root may read every file
  ASSERT_TRUE(!is_root || seteuid(65534) == 0);
  const std::string text = problem(path);
  ASSERT_TRUE(!is_root || seteuid(0) == 0);
  EXPECT_EQ(text, "F: error: cannot be opened: Permission denied");
}

// The example at the root of the project is the settings' documentation.
class ExampleFile : public testing::Test {
 protected:
  ExampleFile() {
    std::ifstream stream("config.toml");  // tests run in the root of the project
    for (std::string line; std::getline(stream, line);) lines_.push_back(line);
  }

  Names lines_;
};

bool is_commented_default(const std::string& line) {
  return line.size() > 1 && line[0] == '#' && line[1] >= 'a' && line[1] <= 'z';
}

TEST_F(ExampleFile, LoadsAsItIs) {
  std::string text;
  for (const std::string& line : lines_) text += line + "\n";
  const LoadedConfig loaded = parse(text);
  ASSERT_EQ(problems_of(loaded), "");
  EXPECT_EQ(loaded.config->backends.size(), 3U);
  EXPECT_EQ(loaded.config->host, "0.0.0.0");
  EXPECT_EQ(loaded.config->db_uri, "sqlite://./data/llm-billing-proxy.db");
}

TEST_F(ExampleFile, ItsCommentedLinesAreTheDefaults) {
  std::string text;
  for (const std::string& line : lines_) {
    text += is_commented_default(line) ? line.substr(1) : line;
    text += "\n";
  }
  const LoadedConfig loaded = parse(text);
  ASSERT_EQ(problems_of(loaded), "");
  const ConfigChange change = compare_configs(*parse("").config, *loaded.config);
  EXPECT_EQ(change.live, Names{});
  EXPECT_EQ(change.needs_restart, (Names{"host", "db.uri"}));
}

TEST_F(ExampleFile, EachSettingStandsInItsTableWithItsBoundsAndEffect) {
  for (const Setting& setting : all_settings()) {
    std::string table;
    int found = 0;
    for (const std::string& line : lines_) {
      if (line.starts_with('[')) table = line.substr(1, line.find(']') - 1);
      const std::string start = std::string(setting.key) + " = ";
      if (table != setting.table || (!line.starts_with(start) && !line.starts_with("#" + start))) {
        continue;
      }
      ++found;
      const bool is_number = setting.max > 0;
      EXPECT_TRUE(!is_number || line.find(setting.bounds()) != std::string::npos) << line;
      EXPECT_EQ(line.ends_with("restart"), !setting.is_live) << line;
    }
    EXPECT_EQ(found, 1) << setting.dotted_key();
  }
}

}  // namespace
}  // namespace llmproxy
