// Batches and their timing, with a clock of numbers: interval, full batch, order over retries,
// back-off.
#include "billing/shipper.h"

#include <gtest/gtest.h>

#include <string>

namespace llmproxy {
namespace {

using std::chrono::milliseconds;
using enum Delivery;

const MonotonicTime kStart = MonotonicTime{} + std::chrono::hours(1);

Event event(int number) {
  Event event;
  event.id.bytes[11] = static_cast<uint8_t>(number);
  event.prompt_n = number;
  return event;
}

std::string numbers(const std::vector<Event>& events) {
  std::string text;
  for (const Event& event : events) text += std::to_string(event.prompt_n) + " ";
  return text;
}

class ShipperTest : public testing::Test {
 protected:
  // Each with the sequence 10 * number.
  void push(int number, MonotonicTime now) {
    shipper_.push(static_cast<uint64_t>(10 * number), event(number), now);
  }
  double jitter_ = 0.999999;
  Shipper shipper_{{milliseconds(1'000), milliseconds(100), milliseconds(400)},
                   [this] { return jitter_; }};

  // Ships all that is there as one batch.
  Shipper::Answer ship(std::vector<Delivery> deliveries, MonotonicTime now) {
    shipper_.take();
    return shipper_.answer({.deliveries = std::move(deliveries)}, now);
  }
  milliseconds wait_from(MonotonicTime now) {
    return std::chrono::round<milliseconds>(shipper_.due().value() - now);
  }
};

TEST_F(ShipperTest, FirstEventWaitsTheIntervalAndNoLonger) {
  EXPECT_FALSE(shipper_.due());
  push(1, kStart);
  EXPECT_EQ(shipper_.due(), kStart + milliseconds(1'000));
  push(2, kStart + milliseconds(900));
  EXPECT_EQ(shipper_.due(), kStart + milliseconds(1'000));
  EXPECT_EQ(numbers(shipper_.take()), "1 2 ");
  EXPECT_FALSE(shipper_.due()) << "one batch at a time";
}

TEST_F(ShipperTest, EventOfTheMeantimeWaitsFromItsOwnArrival) {
  push(1, kStart);
  shipper_.take();
  push(2, kStart + milliseconds(1'200));
  shipper_.answer({.deliveries = {kDelivered}}, kStart + milliseconds(1'700));
  EXPECT_EQ(shipper_.due(), kStart + milliseconds(2'200));
}

TEST_F(ShipperTest, FullBatchGoesAtOnce) {
  constexpr int kMost = static_cast<int>(Shipper::kBatchMax);
  for (int i = 1; i < kMost; ++i) push(i, kStart);
  EXPECT_GT(shipper_.due(), kStart);
  push(kMost, kStart);
  EXPECT_LE(shipper_.due(), kStart);
  push(kMost + 1, kStart);
  EXPECT_EQ(shipper_.take().size(), Shipper::kBatchMax);
  EXPECT_EQ(shipper_.size(), Shipper::kBatchMax + 1);
}

TEST_F(ShipperTest, WhatIsToBeRetriedStaysInOrderAheadOfTheRest) {
  for (int i = 1; i <= 5; ++i) push(i, kStart);
  shipper_.take();
  push(6, kStart);
  const auto answer =
      shipper_.answer({.deliveries = {kDelivered, kRetry, kRefused, kRetry, kDelivered}}, kStart);
  EXPECT_EQ(numbers(answer.delivered), "1 5 ");
  EXPECT_EQ(numbers(answer.refused), "3 ");
  EXPECT_TRUE(answer.outage_began);
  EXPECT_EQ(numbers(shipper_.take()), "2 4 6 ");
}

TEST_F(ShipperTest, BackoffDoublesBetweenItsBounds) {
  push(1, kStart);
  for (const int expected : {100, 200, 400, 400}) {
    ship({kRetry}, kStart);
    EXPECT_EQ(wait_from(kStart), milliseconds(expected));
  }
  jitter_ = 0;
  ship({kRetry}, kStart);
  EXPECT_EQ(wait_from(kStart), milliseconds(200)) << "the jitter takes away up to half";
  push(2, kStart);
  EXPECT_EQ(wait_from(kStart), milliseconds(200)) << "a new event does not cut the back-off short";
  ship({kDelivered, kDelivered}, kStart);
  push(3, kStart);
  jitter_ = 0.999999;
  ship({kRetry}, kStart);
  EXPECT_EQ(wait_from(kStart), milliseconds(100)) << "success resets it";
}

TEST_F(ShipperTest, AnOutageBeginsOnceAndEndsOnce) {
  push(1, kStart);
  EXPECT_TRUE(ship({kRetry}, kStart).outage_began);
  const auto second = ship({kRetry}, kStart + milliseconds(100));
  EXPECT_FALSE(second.outage_began);
  EXPECT_FALSE(second.outage_lasted);
  EXPECT_EQ(ship({kDelivered}, kStart + milliseconds(300)).outage_lasted, milliseconds(300));
  push(2, kStart);
  EXPECT_EQ(shipper_.due(), kStart + milliseconds(1'000)) << "the interval again";
  EXPECT_FALSE(ship({kRefused}, kStart).outage_lasted);
}

TEST_F(ShipperTest, HurryEndsEveryWait) {
  push(1, kStart);
  shipper_.hurry();
  EXPECT_LE(shipper_.due(), kStart);
  ship({kRetry}, kStart);
  ship({kRetry}, kStart);
  EXPECT_EQ(wait_from(kStart), milliseconds(200)) << "but not the back-off of a later failure";
  shipper_.hurry();
  EXPECT_LE(shipper_.due(), kStart);
  ship({kRetry}, kStart);
  EXPECT_EQ(wait_from(kStart), milliseconds(100)) << "which begins anew";
}

TEST_F(ShipperTest, TheOldestIsWhatIsNotSettled) {
  EXPECT_EQ(shipper_.oldest(), std::nullopt);
  for (int i = 1; i <= 4; ++i) push(i, kStart);
  EXPECT_EQ(shipper_.oldest(), 10u);
  shipper_.take();
  EXPECT_EQ(shipper_.oldest(), 10u) << "also while it is under way";
  push(5, kStart);
  shipper_.answer({.deliveries = {kDelivered, kRetry, kDelivered, kRefused}}, kStart);
  EXPECT_EQ(shipper_.oldest(), 20u) << "those behind it do not matter";
  EXPECT_EQ(shipper_.size(), 2u);
  ship({kRefused, kDelivered}, kStart);
  EXPECT_EQ(shipper_.oldest(), std::nullopt);
}

TEST_F(ShipperTest, SequencesOnlyGrow) {
  push(2, kStart);
  EXPECT_DEATH(push(2, kStart), "check failed");
  EXPECT_DEATH(push(1, kStart), "check failed");
}

}  // namespace
}  // namespace llmproxy
