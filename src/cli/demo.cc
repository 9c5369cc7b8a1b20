// Puts the parts of a first try together: directory, key, model server, two curl commands, events.
#include "cli/demo.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <sstream>
#include <system_error>

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

// A directory that goes with the demo, or a given one that stays.
class DemoDirectory {
 public:
  explicit DemoDirectory(const std::string& given) : path_(given), is_temporary_(given.empty()) {
    if (!is_temporary_) return;
    std::string pattern = std::filesystem::temp_directory_path() / "llm-billing-proxy-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), pattern);
    }
    path_ = pattern;
  }
  ~DemoDirectory() {
    std::error_code ignored;
    if (is_temporary_) std::filesystem::remove_all(path_, ignored);
  }
  DemoDirectory(const DemoDirectory&) = delete;
  DemoDirectory& operator=(const DemoDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool is_temporary_;
};

// The key that the curl commands use; "" and a line on stderr when the database cannot be written.
std::string create_demo_key(const Config& config) {
  Result<std::unique_ptr<Database>> database = open_database(config.db_uri);
  if (!database.ok()) {
    fmt::print(stderr, "database: {}\n", database.error().message);
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

void print_curl(const std::string& address, const std::string& token, const std::string& model,
                bool is_stream) {
  fmt::print(
      "\n# {}:\ncurl -N http://{}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "  -H 'Authorization: Bearer {}' \\\n"
      "  -d '{{\"model\":\"{}\",{}\"max_tokens\":48,\"messages\":[{{\"role\":\"user\",\"content\":"
      "\"Say hello to the reader.\"}}]}}'\n",
      is_stream ? "streamed" : "plain", address, token, model, is_stream ? "\"stream\":true," : "");
}

void print_event(const Event& event) {
  fmt::print(
      "\nbilled: _id={} date_created={} user_id={} api_key_id={} model={} prompt_n={} "
      "completion_n={}\n",
      event.id.hex(), format_utc(event.date_created), event.user_id.text, event.api_key_id,
      event.model, event.prompt_n, event.completion_n);
  std::fflush(stdout);
}

}  // namespace

int run_demo(const DemoOptions& options) {
  const DemoDirectory directory(options.directory);
  auto config = std::make_shared<Config>();
  config->port = options.port;
  config->threads = usable_cores();
  config->data_dir = directory.path();
  config->db_uri =
      "sqlite://" + std::filesystem::absolute(directory.path()).string() + "/llm-billing-proxy.db";
  config->ship_interval = Milliseconds(100);  // a person is watching

  Backend backend;
  backend.name = options.model;
  backend.token = options.backend_token;
  block_serve_signals();  // before the first thread
  std::unique_ptr<DemoBackend> scripted;
  if (options.backend_url.empty()) scripted = std::make_unique<DemoBackend>();
  backend.url = scripted != nullptr ? scripted->url() : options.backend_url;
  if (const std::string problem = parse_backend_url(backend.url, backend); !problem.empty()) {
    fmt::print(stderr, "--backend: {}\n", problem);
    return kExitUsage;
  }
  config->backends.emplace(options.model, backend);

  const std::string token = create_demo_key(*config);
  if (token.empty()) return kExitUnavailable;
  ServeHooks hooks;
  hooks.on_listening = [&](const std::string& address) {
    fmt::print("\nModel server: {}\nDatabase: {}\n",
               scripted != nullptr ? "scripted, answers in words" : options.backend_url,
               config->db_uri.substr(9));
    print_curl(address, token, options.model, true);
    print_curl(address, token, options.model, false);
    fmt::print("\nEach answer shows up below as it is billed. Ctrl-C ends the demo.\n");
    std::fflush(stdout);
  };
  hooks.on_event = print_event;
  return serve(config, hooks);
}

}  // namespace llmproxy
