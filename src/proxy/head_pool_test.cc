// Heads that are used again, and given back.
#include "proxy/head_pool.h"

#include <gtest/gtest.h>

#include <list>

#include "base/test_allocations.h"

namespace llmproxy {
namespace {

constexpr size_t kHeaders = 20;
constexpr size_t kHeadBytes = sizeof(http::RequestHead) + kHeaders * sizeof(http::Header);

void use(HeadPool& pool, size_t count) {
  std::list<HeadPool::Lease> leases;
  for (size_t i = 0; i < count; ++i) leases.emplace_back(pool).head().headers.reserve(kHeaders);
}

TEST(HeadPool, KeepsTheRoomForHeaders) {
  HeadPool pool;
  use(pool, 1);
  const size_t before = allocations;
  const HeadPool::Lease lease(pool);
  lease.head().headers.resize(kHeaders);
  EXPECT_EQ(allocations, before);
}

TEST(HeadPool, TwoAtATimeAreTwo) {
  HeadPool pool;
  use(pool, 1);
  const HeadPool::Lease first(pool), second(pool);
  EXPECT_NE(&first.head(), &second.head());
}

TEST(HeadPool, KeepsNoMoreThanItsBound) {
  constexpr size_t kExtra = 5;
  HeadPool pool;
  use(pool, HeadPool::kHeadsKeptMax + kExtra);
  pool.trim();
  EXPECT_EQ(pool.trim(), HeadPool::kHeadsKeptMax * kHeadBytes);
}

TEST(HeadPool, WhatNobodyNeedsIsFreed) {
  constexpr size_t kMany = 8, kFew = 3;
  HeadPool pool;
  use(pool, kMany);
  EXPECT_EQ(pool.trim(), 0u) << "all of them were needed";
  use(pool, kFew);
  EXPECT_EQ(pool.trim(), (kMany - kFew) * kHeadBytes);
  EXPECT_EQ(pool.trim(), kFew * kHeadBytes);
}

}  // namespace
}  // namespace llmproxy
