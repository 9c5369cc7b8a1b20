// Tests of base/check.h: a failed check ends the process and says where.
#include "base/check.h"

#include <gtest/gtest.h>

namespace llmproxy {
namespace {

TEST(CheckDeathTest, NamesPlaceAndTextThenAborts) {
  EXPECT_EXIT(check_failed("a/b.cc", 42, "x > 0"), testing::KilledBySignal(SIGABRT),
              "^a/b\\.cc:42: check failed: x > 0\n$");
}

TEST(CheckDeathTest, MacroStopsOnlyWhenFalse) {
  int evaluated = 0;
  LLMPROXY_CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
  EXPECT_EXIT(LLMPROXY_CHECK(evaluated == 2), testing::KilledBySignal(SIGABRT),
              "check failed: evaluated == 2");
}

}  // namespace
}  // namespace llmproxy
