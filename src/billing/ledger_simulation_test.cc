// Thousands of lives of the ledger, each another seed; a seed that failed once stays in the list.
#include "billing/ledger_simulation.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace llmproxy {
namespace {

using Options = LedgerSimulation::Options;

// SIMULATION_SEEDS=100000 runs more.
uint64_t seeds(uint64_t ordinary) {
  const char* const wanted = std::getenv("SIMULATION_SEEDS");  // NOLINT(concurrency-mt-unsafe)
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : ordinary;
}

struct Sums {
  uint64_t crashes = 0, requests = 0, recovered = 0, segments = 0, problems = 0;
};

Sums run_seeds(uint64_t count, Options options, bool must_hold) {
  Sums sums;
  for (uint64_t seed = 1; seed <= count; ++seed) {
    options.seed = seed;
    LedgerSimulation simulation(options);
    const std::string problem = simulation.run();
    if (must_hold) {
      EXPECT_EQ(problem, "") << "seed " << seed;
    }
    sums.problems += problem.empty() ? 0 : 1;
    sums.crashes += simulation.crashes;
    sums.requests += simulation.requests_made;
    sums.recovered += simulation.recovered;
    sums.segments += simulation.segments_freed;
    if (must_hold && !problem.empty()) break;
  }
  return sums;
}

TEST(LedgerSimulation, NothingIsLostDoubledOrWrongWhereverItCrashes) {
  const Sums sums = run_seeds(seeds(150), {}, true);
  EXPECT_GT(sums.crashes, 0u);
  EXPECT_GT(sums.recovered, 0u);
  EXPECT_GT(sums.segments, 0u);
}

TEST(LedgerSimulation, NorWhereTheDiskFails) {
  run_seeds(seeds(150), {.has_faults = true}, true);
}

TEST(LedgerSimulation, NorWhereTheDatabaseRefuses) {
  run_seeds(seeds(60), {.may_refuse = true}, true);
}

TEST(LedgerSimulation, ADiskThatLiesIsSeenToLose) {
  EXPECT_GT(run_seeds(40, {.is_lying = true}, false).problems, 4u);
}

}  // namespace
}  // namespace llmproxy
