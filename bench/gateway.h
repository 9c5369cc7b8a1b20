// LLM gateways of others, each with keys and a log of what was spent. bench/gateways/NAME installs
// one, starts it on a config of its own and makes a key; what they do is said there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "process.h"
#include "proxy.h"
#include "wire.h"

namespace llmproxy::bench {

class Gateway {
 public:
  struct Kind {
    std::string name;
    std::string keys, spend;  // what is on, for the reader
    std::string log;          // of what was spent, in its directory: a database, or a line each
    std::string rows{};       // the query for prompt and completion tokens; "": lines
    std::string model{kModel};
    bool is_rewriting = true;
    bool has_counts = true;             // its log knows tokens
    size_t connections_max = SIZE_MAX;  // at a time
  };
  static const std::vector<Kind>& kinds();
  // "" if it is installed.
  static std::string why_missing(const Kind& kind);

  // Listening already.
  Gateway(const Kind& kind, uint16_t backend_port, int core);

  const Kind& kind() const { return kind_; }
  const std::string& version() const { return version_; }
  const std::string& token() const { return token_; }
  pid_t pid() const { return process_->pid(); }
  uint16_t port() const { return port_; }

  // Returns when that many are logged. Some never are: after kSpendMax it waits for these no more.
  void await_spend(size_t expected);

  struct Spend {
    size_t rows = 0, right = 0;  // right: requests with one row that has their counts
  };
  Spend compare(const Bills& expected) const;

 private:
  std::string log() const { return directory_.path() + "/" + kind_.log; }
  std::string errors() const { return directory_.path() + "/errors"; }
  std::vector<std::pair<int64_t, int64_t>> read_lines() const;
  size_t count_rows() const;

  const Kind kind_;
  TemporaryDirectory directory_;
  uint16_t port_ = 0;
  std::string version_, token_;
  std::unique_ptr<Process> process_;
  size_t given_up_ = 0;
};

}  // namespace llmproxy::bench
