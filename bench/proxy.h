// The real program on a config of its own, and the bills that it leaves behind.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "process.h"

namespace llmproxy::bench {

// What must be in the database at the end: completion tokens by the sequence of the request, which
// the backend reports as its prompt tokens.
using Bills = std::map<int64_t, int64_t>;

class Proxy {
 public:
  struct Options {
    std::string binary;
    uint16_t backend_port = 0;
    unsigned threads = 0;  // 0: as many as cores
    int core = kAnyCore;
    std::string nosync_library{};  // preloaded: the ledger's writes are not durable then
  };
  explicit Proxy(const Options& options);

  uint16_t port() const { return port_; }
  const std::string& token() const { return token_; }
  pid_t pid() const { return process_->pid(); }
  int64_t count_bills() const;  // in the database by now

  // Ends it by SIGTERM. Fails unless it ends well and the database holds exactly `expected`.
  void stop_and_check(const Bills& expected);

 private:
  std::string database() const { return directory_.path() + "/bench.db"; }
  std::string log() const { return directory_.path() + "/log"; }
  void await_port();

  TemporaryDirectory directory_;
  std::string token_;
  std::unique_ptr<Process> process_;
  uint16_t port_ = 0;
};

}  // namespace llmproxy::bench
