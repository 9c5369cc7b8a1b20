// The same load on several ways in turn, round by round, so that a noisy minute meets all of them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "load.h"
#include "proxy.h"
#include "wire.h"

namespace llmproxy::bench {

struct Lane {
  std::string title;
  Ask ask;
  size_t connections = 1;
  std::chrono::milliseconds run = kRun;

  // Of a paced stream what counts is the cost of a chunk.
  bool is_paced() const { return ask.pace.count() > 0; }
  Samples each(const Samples& us) const;  // of a request, or of a chunk
};

// A way, with its load and its figures in the lane under way.
struct Runner {
  Way way;
  std::function<uint16_t(bool is_stream)> port;
  std::vector<std::string> tokens{"none"};
  const Proxy* proxy = nullptr;       // null: a peer
  std::function<void()> await_end{};  // until what a run leaves behind is written
  std::string model{kModel};          // asked for, without its number
  bool is_rewriting = false;          // replies are written anew
  bool may_fail = false;              // that is told, and ends no others
  bool closes_idle = false;           // connections that wait for their turn: new ones each round
  size_t connections_max = SIZE_MAX;  // more than that it cannot
  std::string failure{};              // why there are no figures any more
  std::unique_ptr<Load> load{};
  LoadFigures figures{};
};
using Runners = std::vector<std::unique_ptr<Runner>>;

// Leaves the figures with the runners. One more round goes before, to warm up.
void run_lane(const Lane& lane, Runners& runners, size_t rounds);

// Whose CPU the ratios are over.
const LoadFigures& nginx_of(const Runners& runners);

}  // namespace llmproxy::bench
