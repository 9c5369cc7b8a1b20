// Blocks that are kept, and buffers made of them.
#include "net/buffer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace llmproxy::net {
namespace {

std::string text(size_t size, char c) {
  return std::string(size, c);
}

TEST(Buffer, TakesTextOfAnySize) {
  BlockPool pool;
  Buffer buffer(pool);
  std::string all;
  for (const size_t size : {size_t{0}, size_t{1}, kBlockBytes - 1, size_t{1}, 5 * kBlockBytes}) {
    const std::string more = text(size, static_cast<char>('a' + all.size() % 7));
    buffer.add(more);
    all += more;
    ASSERT_EQ(buffer.bytes(), all);
  }
  buffer.consume(10);
  buffer.add("end");
  EXPECT_EQ(buffer.bytes(), all.substr(10) + "end");
  buffer.reset();
  EXPECT_TRUE(buffer.empty());
}

TEST(BlockPool, FreesWhatNobodyNeeds) {
  BlockPool pool;
  const auto use = [&](size_t count) {
    std::vector<std::unique_ptr<char[]>> blocks;
    for (size_t i = 0; i < count; ++i) blocks.push_back(pool.take());
    for (auto& block : blocks) pool.give(std::move(block));
  };
  use(8);
  EXPECT_EQ(pool.trim(), 0u) << "all of them were needed";
  use(3);
  EXPECT_EQ(pool.trim(), 5 * kBlockBytes);
  EXPECT_EQ(pool.trim(), 3 * kBlockBytes);
  EXPECT_EQ(pool.trim(), 0u);
  use(2);
}

}  // namespace
}  // namespace llmproxy::net
