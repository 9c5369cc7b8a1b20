// Puts the parts of a first try together: directory, key, model server, two curl commands, events.
#include "cli/demo.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <iostream>
#include <memory>
#include <sstream>
#include <system_error>

#include "api/json_edit.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/cores.h"
#include "cli/check.h"
#include "cli/demo_backend.h"
#include "cli/keys.h"
#include "cli/serve.h"
#include "config/url.h"
#include "db/open.h"

namespace llmproxy {
namespace {

constexpr size_t kLedgerBytesMax = size_t{64} << 20;  // few events, and files that are soon made

// A directory that goes with the demo, or a given one that stays.
class DemoDirectory {
 public:
  explicit DemoDirectory(const std::string& given) : path_(given) {
    if (!given.empty()) return;
    std::error_code failed;
    const std::filesystem::path parent = std::filesystem::temp_directory_path(failed);
    std::string pattern = parent / "llm-billing-proxy-XXXXXX";
    if (!failed && mkdtemp(pattern.data()) == nullptr) {
      failed = {errno, std::generic_category()};
    }
    is_temporary_ = !failed;
    if (is_temporary_) path_ = pattern;
    if (failed) {
      problem_ = fmt::format("no temporary directory (TMPDIR): {}; see --dir", failed.message());
    }
  }
  ~DemoDirectory() {
    std::error_code ignored;
    if (is_temporary_) std::filesystem::remove_all(path_, ignored);
  }
  DemoDirectory(const DemoDirectory&) = delete;
  DemoDirectory& operator=(const DemoDirectory&) = delete;
  const std::string& path() const { return path_; }
  const std::string& problem() const { return problem_; }  // "" or why there is none

 private:
  std::string path_;
  std::string problem_;
  bool is_temporary_ = false;
};

// The key that the curl commands use; "" and a line on stderr when the database cannot be written.
std::string create_demo_key(const Config& config) {
  Result<std::unique_ptr<Database>> database = open_database(config.db_uri);
  if (!database.ok()) {
    std::cerr << "database: " << database.error().message << '\n';
    return "";
  }
  KeysCreate arguments;
  arguments.user = "demo-user";
  arguments.comment = "made by llm-billing-proxy demo";
  std::ostringstream token;
  if (keys_create(**database, config, arguments, token, std::cerr) != 0) return "";
  std::string line = token.str();
  line.pop_back();  // the newline
  return line;
}

// One word of a shell's command line, whatever is in it.
std::string quote_shell(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

void print_curl(const std::string& address, const std::string& token, const std::string& model,
                bool is_stream) {
  const std::string body = fmt::format(
      "{{\"model\":{},{}\"max_tokens\":48,\"messages\":[{{\"role\":\"user\",\"content\":"
      "\"Say hello to the reader.\"}}]}}",
      quote_json(model), is_stream ? "\"stream\":true," : "");
  std::cout << fmt::format(
      "\n# {}:\ncurl -N http://{}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "  -H 'Authorization: Bearer {}' \\\n  -d {}\n",
      is_stream ? "streamed" : "plain", address, token, quote_shell(body));
}

void print_event(const Event& event) {
  std::cout << fmt::format(
                   "\nbilled: _id={} date_created={} user_id={} api_key_id={} model={} prompt_n={} "
                   "completion_n={}\n",
                   event.id.hex(), format_utc(event.date_created), event.user_id.text,
                   event.api_key_id, event.model, event.prompt_n, event.completion_n)
            << std::flush;
}

// Fills in `backend`. False and a line on stderr when an option cannot be used. The rules are those
// of the configuration file.
bool read_backend(const DemoOptions& options, Backend& backend) {
  backend.name = options.model;
  backend.token = options.backend_token;
  std::string problem = check_backend_name(options.model);
  std::string_view option = "--model";
  if (problem.empty()) {
    problem = check_backend_token(options.backend_token);
    option = "--backend-token";
  }
  if (problem.empty() && !options.backend_url.empty()) {
    problem = parse_backend_url(options.backend_url, backend);
    option = "--backend";
  }
  if (!problem.empty()) {
    std::cerr << option << ": " << problem << '\n';
  } else if (const std::string text = warn_of_base_path(backend); !text.empty()) {
    std::cerr << "--backend: warning: " << text << '\n';
  }
  return problem.empty();
}

}  // namespace

int run_demo(const DemoOptions& options) {
  Backend backend;
  if (!read_backend(options, backend)) return kExitUsage;
  const DemoDirectory directory(options.directory);
  if (!directory.problem().empty()) {
    std::cerr << "demo: " << directory.problem() << '\n';
    return kExitUnavailable;
  }
  auto config = std::make_shared<Config>();
  config->port = options.port;
  config->threads = usable_cores();
  config->data_dir = directory.path();
  config->db_uri =
      "sqlite://" + std::filesystem::absolute(directory.path()).string() + "/llm-billing-proxy.db";
  config->ship_interval = Milliseconds(100);  // a person is watching
  config->ledger_bytes_max = kLedgerBytesMax;

  std::unique_ptr<DemoBackend> scripted;
  if (options.backend_url.empty()) {
    scripted = std::make_unique<DemoBackend>();
    const std::string problem = parse_backend_url(scripted->url(), backend);
    LLMPROXY_CHECK(problem.empty());
  }
  config->backends.emplace(options.model, backend);

  const std::string token = create_demo_key(*config);
  if (token.empty()) return kExitUnavailable;
  ServeHooks hooks;
  hooks.on_listening = [&](const std::string& address) {
    std::cout << fmt::format("\nModel server: {}\nDatabase: {}\n",
                             scripted != nullptr ? "scripted, answers in words" : backend.url,
                             config->db_uri.substr(9));
    print_curl(address, token, options.model, true);
    print_curl(address, token, options.model, false);
    std::cout << "\nEach answer shows up below as it is billed. Ctrl-C ends the demo." << std::endl;
  };
  hooks.on_event = print_event;
  return serve(config, hooks);
}

}  // namespace llmproxy
