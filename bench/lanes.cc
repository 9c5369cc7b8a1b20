// A load each, alive through the lane: connections are made once, before the first round.
#include "lanes.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "figures.h"

namespace llmproxy::bench {
namespace {

constexpr std::chrono::milliseconds kAccept{100};  // new connections, before anybody's clock runs

// What a gateway does wrong ends its own row only; a fault of ours, or of nginx, ends the run.
template <class Action>
void guard(Runner& runner, Action action) {
  if (!runner.failure.empty()) return;
  try {
    action();
  } catch (const std::exception& failure) {
    if (!runner.may_fail) throw;
    runner.failure = failure.what();
    runner.load.reset();
  }
}

void connect(const Lane& lane, Runner& runner) {
  Ask ask = lane.ask;
  ask.closes &= runner.way.pid != 0;  // the load keeps its own connections
  ask.model = runner.model;
  ask.is_rewritten = runner.is_rewriting;
  runner.load =
      std::make_unique<Load>(runner.port(ask.is_stream), runner.tokens, ask,
                             std::min(lane.connections, runner.connections_max), lane.run);
}

void run_once(const Lane& lane, Runner& runner, bool is_counted) {
  if (runner.closes_idle) {
    connect(lane, runner);
    std::this_thread::sleep_for(kAccept);
  }
  measure(runner.way, *runner.load, runner.figures, is_counted, [&] {
    if (runner.proxy != nullptr) await_bills(*runner.proxy, runner.way.bills.size());
    if (runner.await_end) runner.await_end();
  });
}

}  // namespace

Samples Lane::each(const Samples& us) const {
  Samples result;
  for (const double value : us.all()) {
    result.add(is_paced() ? value / static_cast<double>(ask.events) : value);
  }
  return result;
}

void run_lane(const Lane& lane, Runners& runners, size_t rounds) {
  std::vector<Runner*> order;
  for (const auto& runner : runners) {
    runner->figures = {};
    guard(*runner, [&] { connect(lane, *runner); });
    order.push_back(runner.get());
  }
  for (size_t round = 0; round <= rounds; ++round) {  // the first is to warm up
    for (Runner* runner : order) {
      guard(*runner, [&] { run_once(lane, *runner, round > 0); });
    }
    std::rotate(order.begin(), order.begin() + 1, order.end());
  }
  for (const auto& runner : runners) runner->load.reset();
}

const LoadFigures& nginx_of(const Runners& runners) {
  const auto is_nginx = [](const auto& runner) { return runner->way.name == "nginx"; };
  return (*std::find_if(runners.begin(), runners.end(), is_nginx))->figures;
}

}  // namespace llmproxy::bench
