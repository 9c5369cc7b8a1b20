// Their logs are read as they lie on the disk, while nobody is measured.
#include "gateway.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <sstream>
#include <thread>

namespace llmproxy::bench {
namespace {

constexpr std::chrono::seconds kStartMax{90};  // LiteLLM imports for a long time
constexpr std::chrono::seconds kSpendMax{10};
constexpr std::chrono::milliseconds kBetweenLooks{100};
constexpr size_t kTailBytes = 2000;

std::string script_of(const std::string& name) {
  return "bench/gateways/" + name;
}

std::string tail_of(const std::string& path) {
  const std::string text = read_file(path);
  return text.size() > kTailBytes ? text.substr(text.size() - kTailBytes) : text;
}

}  // namespace

const std::vector<Gateway::Kind>& Gateway::kinds() {
  static const std::vector<Kind> kinds{
      {.name = "litellm",
       .keys = "custom auth: the hash of each key in memory (no database: see bench/README.md)",
       .spend = "custom callback: a line with key, model, tokens and cost for each request",
       .log = "spend.jsonl"},
      {.name = "ferrogw",
       .keys = "its own, in SQLite; a budget for each key",
       .spend = "its request log in SQLite: a row before and a row after each request",
       .log = "requests.db",
       .rows = "SELECT prompt_tokens, completion_tokens FROM request_logs"
               " WHERE stage = 'after_request'"},
      {.name = "any-llm",
       .keys = "its own, in SQLite; a user, without a budget",
       .spend = "its usage log in SQLite: a row and the user's spend for each request; 12 "
                "connections at most, since it stands still with more than its 15 to the database",
       .log = "gateway.db",
       .rows = "SELECT prompt_tokens, completion_tokens FROM usage_logs",
       .model = "openai:bench-",
       .connections_max = 12},
      {.name = "envoy",
       .keys = "its API key filter",
       .spend = "access log: a line for each request, without tokens (it does not read replies)",
       .log = "access.log",
       .is_rewriting = false,
       .has_counts = false},
  };
  return kinds;
}

std::string Gateway::why_missing(const Kind& kind) {
  if (!std::filesystem::exists("build/gateways/" + kind.name + "/installed")) {
    const std::string why = read_file("build/gateways/" + kind.name + ".failed");
    return why.empty() ? "run: make bench-peers" : why.substr(0, why.find('\n'));
  }
  return "";
}

Gateway::Gateway(const Kind& kind, uint16_t backend_port, int core) : kind_(kind) {
  const std::string script = script_of(kind.name);
  version_ = output_of({script, "version"}, directory_);
  { const Fd free_port = listen_on(port_); }
  process_ = std::make_unique<Process>(
      std::vector<std::string>{script, "serve", directory_.path(), std::to_string(port_),
                               std::to_string(backend_port)},
      Process::Files{.output = directory_.path() + "/log", .errors = errors()}, core);
  for (int64_t looks = kStartMax / kBetweenLooks; !can_connect_to(port_); --looks) {
    if (looks == 0 || process_->has_ended()) {
      throw Failure(fmt::format("{} did not start:\n{}", kind.name, tail_of(errors())));
    }
    std::this_thread::sleep_for(kBetweenLooks);
  }
  token_ = output_of({script, "key", directory_.path(), std::to_string(port_)}, directory_);
  if (token_.empty()) throw Failure(kind.name + " made no key:\n" + tail_of(errors()));
}

// Prompt and completion tokens, -1 where the log does not know them.
std::vector<std::pair<int64_t, int64_t>> Gateway::read_lines() const {
  std::vector<std::pair<int64_t, int64_t>> lines;
  std::istringstream text(read_file(log()));
  for (std::string line; std::getline(text, line);) {
    lines.emplace_back(number_after(line, "\"prompt_tokens\": "),
                       number_after(line, "\"completion_tokens\": "));
  }
  return lines;
}

size_t Gateway::count_rows() const {
  if (kind_.rows.empty()) {
    const std::string text = read_file(log());
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  }
  size_t rows = 0;
  query(log(), "SELECT count(*), 0 FROM (" + kind_.rows + ")",
        [&](int64_t count, int64_t) { rows = static_cast<size_t>(count); });
  return rows;
}

void Gateway::await_spend(size_t expected) {
  size_t missing = 0;
  for (int64_t looks = kSpendMax / kBetweenLooks; looks > 0; --looks) {
    missing = expected - std::min(expected, count_rows());
    if (missing <= given_up_) return;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  given_up_ = missing;
}

Gateway::Spend Gateway::compare(const Bills& expected) const {
  std::vector<std::pair<int64_t, int64_t>> found;
  if (kind_.rows.empty()) {
    found = read_lines();
  } else {
    query(log(), kind_.rows,
          [&](int64_t prompt, int64_t completion) { found.emplace_back(prompt, completion); });
  }
  std::map<int64_t, size_t> times;
  for (const auto& row : found) ++times[row.first];
  const auto is_right = [&](const auto& row) {
    const auto request = expected.find(row.first);
    return request != expected.end() && request->second == row.second && times[row.first] == 1;
  };
  return {.rows = found.size(),
          .right = static_cast<size_t>(std::count_if(found.begin(), found.end(), is_right))};
}

}  // namespace llmproxy::bench
