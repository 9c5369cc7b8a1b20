// Tests of base/filesystem.h on the file systems of this machine.
#include "base/filesystem.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace llmproxy {
namespace {

// The first mount point of a kind, from /proc/mounts; "" when there is none.
std::string mount_of(const std::string& kind) {
  std::ifstream mounts("/proc/mounts");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::string device, place, type;
    fields >> device >> place >> type;
    if (type == kind) return place;
  }
  return "";
}

TEST(VolatileFilesystem, NamesTheKindsThatForget) {
  int found = 0;
  for (const std::string kind : {"tmpfs", "overlay"}) {
    const std::string place = mount_of(kind);
    if (place.empty()) continue;
    ++found;
    const std::string expected = kind == "overlay" ? "overlayfs" : kind;
    EXPECT_EQ(volatile_filesystem(place), expected) << place;
    EXPECT_EQ(volatile_filesystem(place + "/"), expected);
    EXPECT_EQ(volatile_filesystem(place + "/not/there/yet"), expected);
  }
  EXPECT_GT(found, 0) << "none is mounted here; do: mount -t tmpfs none /mnt";
}

TEST(VolatileFilesystem, OthersAreNotNamed) {
  EXPECT_EQ(volatile_filesystem("/proc"), "");
  EXPECT_EQ(volatile_filesystem("/proc/self/"), "");
  EXPECT_EQ(volatile_filesystem("/proc/not/there"), "");
  EXPECT_EQ(volatile_filesystem("/proc/version/file"), "");  // below a file: cannot be asked
}

}  // namespace
}  // namespace llmproxy
