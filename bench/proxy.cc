// Its log goes to a file, as a service's does: a pipe would have to be read on a core that is
// measured.
#include "proxy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/sha.h>
#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <thread>
#include <utility>

#include "wire.h"

namespace llmproxy::bench {
namespace {

constexpr std::chrono::seconds kStartMax{30};
constexpr std::chrono::milliseconds kBetweenLooks{5};
constexpr int kBusyMs = 10'000;
constexpr size_t kLogTailBytes = 2000;

std::string last_bytes(const std::string& text) {
  return text.size() > kLogTailBytes ? text.substr(text.size() - kLogTailBytes) : text;
}

}  // namespace

void query(const std::string& path, const std::string& sql,
           const std::function<void(int64_t, int64_t)>& row) {
  sqlite3* handle = nullptr;
  sqlite3_stmt* statement = nullptr;
  int result = sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READONLY, nullptr);
  sqlite3_busy_timeout(handle, kBusyMs);
  if (result == SQLITE_OK)
    result = sqlite3_prepare_v2(handle, sql.c_str(), -1, &statement, nullptr);
  if (result == SQLITE_OK) {
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
      row(sqlite3_column_int64(statement, 0), sqlite3_column_int64(statement, 1));
    }
  }
  const std::string message = sqlite3_errmsg(handle);
  sqlite3_finalize(statement);
  sqlite3_close(handle);
  if (result != SQLITE_DONE) throw Failure("reading the bills: " + message);
}

void print_bills(size_t requests) {
  fmt::print("\n{} requests through the proxy, {} bills, each count right.\n", requests, requests);
}

Proxy::Proxy(const Options& options) : options_(options) {
  const std::string config = this->config();
  std::string text = fmt::format(
      "port = 0\nthreads = {}\ndata_dir = \"{}\"\n{}[db]\nuri = \"sqlite://{}\"\n", options.threads,
      directory_.path(), options.has_key_cache ? "" : "auth.key_ttl = 0\n", database());
  for (size_t i = 0; i < options.backends; ++i) {
    text += fmt::format(
        "[backends.bench-{}]\nurl = \"{}://127.0.0.1:{}\"\nverify_ssl = false\ntoken = \"\"\n", i,
        options.is_tls ? "https" : "http", options.backend_ports[i % options.backend_ports.size()]);
  }
  write_file(config, text);
  tokens_.push_back(
      output_of({options.binary, "-c", config, "keys", "create", "--user", "bench"}, directory_));
  if (tokens_[0].empty())
    throw Failure("`keys create` failed; is this the program? " + options.binary);
  add_keys(options.keys - 1);
  launch();
}

void Proxy::launch() {
  std::filesystem::remove(log());  // of the process before
  std::vector<std::string> variables;
  if (!options_.nosync_library.empty()) {
    variables = {"LD_PRELOAD=" + options_.nosync_library,
                 "NOSYNC_DIRECTORY=" + directory_.path() + "/ledger"};
  }
  const std::vector<std::string> command{options_.binary, "-c", config()};
  process_ =
      std::make_unique<Process>(command, Process::Files{.errors = log()}, options_.core, variables);
  await_port();
}

void Proxy::kill_and_launch() {
  process_ = nullptr;
  port_ = 0;
  launch();
}

void Proxy::hold_database() {
  sqlite3_open(database().c_str(), &holder_);
  if (sqlite3_exec(holder_, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr) != SQLITE_OK) {
    throw Failure("holding the database");
  }
}

void Proxy::let_database_go() {
  sqlite3_close(std::exchange(holder_, nullptr));
}

Proxy::~Proxy() {
  let_database_go();
}

// As `keys create` does, in one transaction.
void Proxy::add_keys(size_t keys) {
  std::string sql = "BEGIN;";
  for (size_t i = 0; i < keys; ++i) {
    const std::string token = fmt::format("sk-bench-{:032}", i);
    std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
    SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), digest.data());
    sql += fmt::format(
        "INSERT INTO api_keys SELECT '{:024x}', access_level, '{:02x}', user_id, NULL,"
        " NULL FROM api_keys LIMIT 1;",
        i, fmt::join(digest, ""));
    tokens_.push_back(token);
  }
  sqlite3* handle = nullptr;
  sqlite3_open(database().c_str(), &handle);
  const int result = sqlite3_exec(handle, (sql + "COMMIT").c_str(), nullptr, nullptr, nullptr);
  const std::string message = sqlite3_errmsg(handle);
  sqlite3_close(handle);
  if (result != SQLITE_OK) throw Failure("adding keys: " + message);
}

void Proxy::await_port() {
  constexpr std::string_view kListening = "listening on 127.0.0.1:";
  const int64_t deadline = monotonic_ns() + std::chrono::nanoseconds(kStartMax).count();
  while (port_ == 0) {
    const std::string text = read_file(log());
    const size_t at = text.find(kListening);
    if (at != std::string::npos && text.find('\n', at) != std::string::npos) {
      std::from_chars(text.data() + at + kListening.size(), text.data() + text.size(), port_);
    } else if (process_->has_ended() || monotonic_ns() > deadline) {
      throw Failure("the proxy did not start:\n" + last_bytes(text));
    } else {
      std::this_thread::sleep_for(kBetweenLooks);
    }
  }
}

int64_t Proxy::count_bills() const {
  int64_t bills = 0;
  // None is ever deleted, and counting them would hold up whoever writes.
  query(database(), "SELECT coalesce(max(rowid), 0), 0 FROM events_completion",
        [&](int64_t count, int64_t) { bills = count; });
  return bills;
}

void Proxy::stop_and_check(const Bills& expected) {
  process_->signal(SIGTERM);
  if (const int status = process_->wait(); status != 0) {
    throw Failure(
        fmt::format("the proxy ended with {}:\n{}", status, last_bytes(read_file(log()))));
  }
  Bills found;
  size_t count = 0;
  query(database(), "SELECT prompt_n, completion_n FROM events_completion",
        [&](int64_t prompt, int64_t completion) {
          ++count;
          found[prompt] = completion;
        });
  const auto is_wrong = [&](const auto& request) {
    const auto bill = found.find(request.first);
    return bill == found.end() || bill->second != request.second;
  };
  const auto wrong = std::count_if(expected.begin(), expected.end(), is_wrong);
  if (count == expected.size() && wrong == 0) return;
  throw Failure(fmt::format("void: {} requests and {} bills; {} requests without their right bill",
                            expected.size(), count, wrong));
}

}  // namespace llmproxy::bench
