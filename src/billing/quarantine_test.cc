// What is kept of bytes that are no records, and how much of it.
#include "billing/quarantine.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "billing/ledger_test_rig.h"

namespace llmproxy {
namespace {

using namespace rig;

class QuarantineTest : public testing::Test {
 protected:
  void fill(size_t files, size_t bytes) {
    for (size_t i = 0; i < files; ++i)
      disk_.put(Quarantine::name_of(i, 0), std::string(bytes, 'x'));
  }
  SimulatedDisk disk_{1};
  std::unique_ptr<Directory> directory_ = disk_.open();
};

TEST_F(QuarantineTest, KeepsBytesAndFiles) {
  Quarantine quarantine(*directory_);
  EXPECT_EQ(quarantine.keep_bytes(Quarantine::name_of(0x1f, 512), "damaged"), 0);
  EXPECT_TRUE(disk_.content("quarantine-000000000000001f-512")->starts_with("damaged"));
  disk_.put("file", std::string(512, 'f') + std::string(4'096, '\0'));
  EXPECT_EQ(quarantine.keep_file("file", 512), 0);
  EXPECT_EQ(disk_.content("quarantine-file"), std::string(512, 'f')) << "without the zeros";
  EXPECT_FALSE(disk_.content("file"));
  EXPECT_EQ(quarantine.keep_file("file", 512), ENOENT);
}

TEST_F(QuarantineTest, IsBoundedInFiles) {
  fill(Quarantine::kFilesMax - 1, 1);
  Quarantine quarantine(*directory_);
  disk_.put("file", "f");
  EXPECT_EQ(quarantine.keep_bytes(Quarantine::name_of(9'999, 0), "the last"), 0);
  EXPECT_EQ(quarantine.keep_bytes(Quarantine::name_of(10'000, 0), "one more"), EDQUOT);
  EXPECT_EQ(quarantine.keep_file("file", 1), EDQUOT);
  EXPECT_TRUE(disk_.content("file"));
  EXPECT_EQ(quarantine.keep_bytes(Quarantine::name_of(9'999, 0), "again"), 0) << "the same place";
}

TEST_F(QuarantineTest, IsBoundedInBytes) {
  fill(1, Quarantine::kBytesMax - 1'024);
  Quarantine quarantine(*directory_);
  const std::string some(512, 's');
  for (uint64_t i = 1; i <= 2; ++i) {
    EXPECT_EQ(quarantine.keep_bytes(Quarantine::name_of(1, i), some), 0);
    EXPECT_EQ(quarantine.keep_bytes(Quarantine::name_of(1, i), some), 0) << "counts once";
  }
  EXPECT_EQ(quarantine.keep_bytes(Quarantine::name_of(1, 3), "x"), EDQUOT);
}

// What a crash left is dropped; what was durable stays; each is told.
TEST_F(QuarantineTest, AStartGetsOnWithoutRoomInIt) {
  for (const bool is_torn : {true, false}) {
    LogRig rig;
    rig.start();
    rig.commit(bill(1));
    const uint16_t next = rig.roll(2);
    rig.commit(bill(next));
    rig.commit(true);
    const std::string first = rig.bytes(1), second = rig.bytes(2);
    rig.kill();
    for (size_t i = 0; i < Quarantine::kFilesMax; ++i) rig.disk.put(Quarantine::name_of(i, 0), "x");
    // The first write of another one, torn; or damage of the second.
    if (is_torn) rig.disk.put(segment_name(3), second.substr(0, 512) + std::string(512, 'x'));
    if (!is_torn) rig.disk.spoil(segment_name(2), 0, "xxxx");
    const Result<Recovered> found = rig.recover();
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(rig.disk.content(segment_name(is_torn ? 3 : 2)).has_value(), !is_torn);
    EXPECT_EQ(found->alarms.size(), is_torn ? 0u : 1u);
    EXPECT_EQ(found->notes.size(), 1u);
    EXPECT_EQ(rig.files("").size(), Quarantine::kFilesMax + 2);
  }
}

}  // namespace
}  // namespace llmproxy
