// The real program on a config of its own, and the bills that it leaves behind.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "process.h"

struct sqlite3;

namespace llmproxy::bench {

// What must be in the database at the end: completion tokens by the sequence of the request, which
// the backend reports as its prompt tokens.
using Bills = std::map<int64_t, int64_t>;

// Calls `row` with the first two columns of each row of an SQLite database.
void query(const std::string& path, const std::string& sql,
           const std::function<void(int64_t, int64_t)>& row);

// The last line of a benchmark whose bills were compared.
void print_bills(size_t requests);

class Proxy {
 public:
  struct Options {
    std::string binary;
    std::vector<uint16_t> backend_ports{};
    unsigned threads = 0;           // 0: as many as cores
    size_t keys = 1, backends = 1;  // models bench-0, bench-1, ..., at the ports in turn
    bool has_key_cache = true;      // false: the database is asked for each request's key
    bool is_tls = false;            // to the backends
    int core = kAnyCore;
    std::string nosync_library{};  // preloaded: the ledger's writes are not durable then
  };
  explicit Proxy(const Options& options);
  ~Proxy();

  const std::string& binary() const { return options_.binary; }
  uint16_t port() const { return port_; }
  const std::vector<std::string>& tokens() const { return tokens_; }
  pid_t pid() const { return process_->pid(); }
  int64_t count_bills() const;  // in the database by now

  // Another process on the same files; returns when it listens.
  void kill_and_launch();

  // Between them nobody writes to the database, and everybody reads.
  void hold_database();
  void let_database_go();

  // Ends it by SIGTERM. Fails unless it ends well and the database holds exactly `expected`.
  void stop_and_check(const Bills& expected);

 private:
  std::string config() const { return directory_.path() + "/config.toml"; }
  std::string database() const { return directory_.path() + "/bench.db"; }
  std::string log() const { return directory_.path() + "/log"; }
  void add_keys(size_t keys);
  void launch();
  void await_port();

  const Options options_;
  sqlite3* holder_ = nullptr;
  TemporaryDirectory directory_;
  std::vector<std::string> tokens_;
  std::unique_ptr<Process> process_;
  uint16_t port_ = 0;
};

}  // namespace llmproxy::bench
