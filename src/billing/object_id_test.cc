// Ids: text both ways, growth under a wrapping counter and a clock that steps back, distinct over
// threads.
#include "billing/object_id.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace llmproxy {
namespace {

constexpr WallMs kNow = 1'790'000'000'000;

uint32_t seconds_of(const ObjectId& id) {
  return uint32_t{id.bytes[0]} << 24 | uint32_t{id.bytes[1]} << 16 | uint32_t{id.bytes[2]} << 8 |
         id.bytes[3];
}

TEST(ObjectId, HexBothWays) {
  const auto id = ObjectId::from_hex("507f1f77bcf86cd799439011");
  ASSERT_TRUE(id);
  EXPECT_EQ(id->bytes[0], 0x50);
  EXPECT_EQ(id->bytes[11], 0x11);
  EXPECT_EQ(id->hex(), "507f1f77bcf86cd799439011");
  for (const char* bad : {"", "507f1f77bcf86cd79943901", "507f1f77bcf86cd7994390111",
                          "507f1f77bcf86cd79943901g", " 07f1f77bcf86cd799439011"}) {
    EXPECT_FALSE(ObjectId::from_hex(bad)) << bad;
  }
}

TEST(ObjectIdMint, CarriesTheSecondAndTheProcess) {
  ObjectIdMint mint;
  const ObjectId first = mint.mint(kNow);
  const ObjectId second = mint.mint(kNow + 999);
  EXPECT_EQ(seconds_of(first), kNow / 1000);
  EXPECT_EQ(seconds_of(second), kNow / 1000);
  EXPECT_TRUE(
      std::equal(first.bytes.begin() + 4, first.bytes.begin() + 9, second.bytes.begin() + 4));

  ObjectIdMint other;
  const ObjectId elsewhere = other.mint(kNow);
  EXPECT_FALSE(
      std::equal(first.bytes.begin() + 4, first.bytes.begin() + 9, elsewhere.bytes.begin() + 4));
}

TEST(ObjectIdMint, WrapWithinASecondAdvancesIt) {
  ObjectIdMint mint;
  constexpr uint32_t kIds = (1 << 24) + 1;  // one more than a second's counter can tell apart
  ObjectId last = mint.mint(kNow);
  const ObjectId first = last;
  bool grows = true;
  for (uint32_t i = 1; i < kIds; ++i) {
    const ObjectId id = mint.mint(kNow);
    grows = grows && last < id;
    last = id;
  }
  EXPECT_TRUE(grows);
  EXPECT_EQ(seconds_of(last), seconds_of(first) + 1);
}

TEST(ObjectIdMint, ClockSteppingBackDoesNot) {
  ObjectIdMint mint;
  const ObjectId before = mint.mint(kNow);
  const ObjectId after = mint.mint(kNow - 3'600'000);
  EXPECT_LT(before, after);
  EXPECT_EQ(seconds_of(after), seconds_of(before));
  EXPECT_EQ(seconds_of(mint.mint(kNow + 5'000)), kNow / 1000 + 5);
}

TEST(ObjectIdMint, DistinctOverThreads) {
  constexpr size_t kThreads = 8, kEach = 100'000;
  ObjectIdMint mint;
  std::vector<std::vector<ObjectId>> minted(kThreads);
  std::vector<std::thread> threads;
  for (auto& ids : minted) {
    threads.emplace_back([&mint, &ids] {
      ids.reserve(kEach);
      for (size_t i = 0; i < kEach; ++i) ids.push_back(mint.mint(kNow));
    });
  }
  for (auto& thread : threads) thread.join();
  std::vector<ObjectId> all;
  for (const auto& ids : minted) all.insert(all.end(), ids.begin(), ids.end());
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all.size(), kThreads * kEach);
  EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end());
}

}  // namespace
}  // namespace llmproxy
