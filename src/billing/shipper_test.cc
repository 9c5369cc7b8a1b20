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
  EXPECT_TRUE(shipper_.push(event(1), kStart));
  EXPECT_EQ(shipper_.due(), kStart + milliseconds(1'000));
  EXPECT_FALSE(shipper_.push(event(2), kStart + milliseconds(900)));
  EXPECT_EQ(shipper_.due(), kStart + milliseconds(1'000));
  EXPECT_EQ(numbers(shipper_.take()), "1 2 ");
  EXPECT_FALSE(shipper_.due()) << "one batch at a time";
}

TEST_F(ShipperTest, EventOfTheMeantimeWaitsFromItsOwnArrival) {
  shipper_.push(event(1), kStart);
  shipper_.take();
  EXPECT_TRUE(shipper_.push(event(2), kStart + milliseconds(1'200)));
  shipper_.answer({.deliveries = {kDelivered}}, kStart + milliseconds(1'700));
  EXPECT_EQ(shipper_.due(), kStart + milliseconds(2'200));
}

TEST_F(ShipperTest, FullBatchGoesAtOnce) {
  for (size_t i = 1; i < Shipper::kBatchMax; ++i) shipper_.push(event(1), kStart);
  EXPECT_GT(shipper_.due(), kStart);
  EXPECT_TRUE(shipper_.push(event(1), kStart));
  EXPECT_LE(shipper_.due(), kStart);
  shipper_.push(event(1), kStart);
  EXPECT_EQ(shipper_.take().size(), Shipper::kBatchMax);
  EXPECT_EQ(shipper_.size(), Shipper::kBatchMax + 1);
}

TEST_F(ShipperTest, WhatIsToBeRetriedStaysInOrderAheadOfTheRest) {
  for (int i = 1; i <= 5; ++i) shipper_.push(event(i), kStart);
  shipper_.take();
  shipper_.push(event(6), kStart);
  const auto answer =
      shipper_.answer({.deliveries = {kDelivered, kRetry, kRefused, kRetry, kDelivered}}, kStart);
  EXPECT_EQ(numbers(answer.delivered), "1 5 ");
  EXPECT_EQ(numbers(answer.refused), "3 ");
  EXPECT_TRUE(answer.outage_began);
  EXPECT_EQ(numbers(shipper_.take()), "2 4 6 ");
}

TEST_F(ShipperTest, BackoffDoublesBetweenItsBounds) {
  shipper_.push(event(1), kStart);
  for (const int expected : {100, 200, 400, 400}) {
    ship({kRetry}, kStart);
    EXPECT_EQ(wait_from(kStart), milliseconds(expected));
  }
  jitter_ = 0;
  ship({kRetry}, kStart);
  EXPECT_EQ(wait_from(kStart), milliseconds(200)) << "the jitter takes away up to half";
  EXPECT_FALSE(shipper_.push(event(2), kStart)) << "a new event does not cut the back-off short";
  EXPECT_EQ(wait_from(kStart), milliseconds(200));
  ship({kDelivered, kDelivered}, kStart);
  shipper_.push(event(3), kStart);
  jitter_ = 0.999999;
  ship({kRetry}, kStart);
  EXPECT_EQ(wait_from(kStart), milliseconds(100)) << "success resets it";
}

TEST_F(ShipperTest, AnOutageBeginsOnceAndEndsOnce) {
  shipper_.push(event(1), kStart);
  EXPECT_TRUE(ship({kRetry}, kStart).outage_began);
  const auto second = ship({kRetry}, kStart + milliseconds(100));
  EXPECT_FALSE(second.outage_began);
  EXPECT_FALSE(second.outage_lasted);
  EXPECT_EQ(ship({kDelivered}, kStart + milliseconds(300)).outage_lasted, milliseconds(300));
  shipper_.push(event(2), kStart);
  EXPECT_FALSE(ship({kRefused}, kStart).outage_lasted);
}

TEST_F(ShipperTest, HurryEndsEveryWait) {
  shipper_.push(event(1), kStart);
  shipper_.hurry();
  EXPECT_LE(shipper_.due(), kStart);
  ship({kRetry}, kStart);
  EXPECT_EQ(wait_from(kStart), milliseconds(100)) << "but not the back-off of a later failure";
  shipper_.hurry();
  EXPECT_LE(shipper_.due(), kStart);
}

TEST_F(ShipperTest, DropGivesTheBatchUnderWayToo) {
  for (int i = 1; i <= 3; ++i) shipper_.push(event(i), kStart);
  shipper_.take();
  shipper_.push(event(4), kStart);
  EXPECT_EQ(numbers(shipper_.drop()), "1 2 3 4 ");
  EXPECT_EQ(shipper_.size(), 0U);
  EXPECT_FALSE(shipper_.due());
}

}  // namespace
}  // namespace llmproxy
