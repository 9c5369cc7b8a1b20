// Tests of base/cores.h: quotas of control groups, and the limit of open files.
#include "base/cores.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <vector>

namespace llmproxy {
namespace {

namespace fs = std::filesystem;

class CpuQuota : public testing::Test {
 protected:
  CpuQuota() {
    std::string name = (fs::temp_directory_path() / "cgroup-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) abort();
    mount_ = name;
  }
  ~CpuQuota() override { fs::remove_all(mount_); }

  void put(const std::string& path, const std::string& text) const {
    fs::create_directories((mount_ / path).parent_path());
    std::ofstream(mount_ / path) << text;
  }
  std::optional<double> quota(const std::string& membership) const {
    return cpu_quota(membership, mount_.string());
  }

  fs::path mount_;
};

TEST_F(CpuQuota, Version2TakesTheSmallestUpTheTree) {
  EXPECT_EQ(quota("0::/a/b\n"), std::nullopt);
  put("a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(quota("0::/a/b\n"), std::nullopt);
  put("a/cpu.max", "250000 100000\n");
  EXPECT_EQ(quota("0::/a/b\n"), 2.5);
  put("a/b/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota("0::/a/b\n"), 0.5);
  EXPECT_EQ(quota("0::/a\n"), 2.5);
  EXPECT_EQ(quota("0::/other\n"), std::nullopt);
  put("cpu.max", "150000 100000\n");
  EXPECT_EQ(quota("0::/other\n"), 1.5);
  EXPECT_EQ(quota("0::/\n"), 1.5);
}

TEST_F(CpuQuota, Version1ByEitherMountName) {
  put("cpu/x/cpu.cfs_quota_us", "300000\n");
  put("cpu/x/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota("4:memory:/y\n3:cpu,cpuacct:/x\n0::/\n"), 3.0);
  EXPECT_EQ(quota("1:cpu:/x\n"), 3.0);
  EXPECT_EQ(quota("2:cpuacct:/x\n"), std::nullopt);
  EXPECT_EQ(quota("2:cpuset:/x\n"), std::nullopt);
  put("cpu,cpuacct/x/cpu.cfs_quota_us", "200000\n");
  put("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota("3:cpu,cpuacct:/x\n"), 2.0);
}

// A container without a cgroup namespace: the path is the host's, the files are at the root.
TEST_F(CpuQuota, FallsBackToTheRootOfTheMount) {
  put("cpu/cpu.cfs_quota_us", "100000\n");
  put("cpu/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(quota("1:cpu:/docker/0123abcd\n"), 2.0);
}

TEST_F(CpuQuota, OddFilesAreNoLimit) {
  for (const char* text : {"", "max", "100000", "0 100000", "-1 100000", "100000 0", "many few"}) {
    put("cpu.max", text);
    EXPECT_EQ(quota("0::/\n"), std::nullopt) << text;
  }
  put("cpu/cpu.cfs_quota_us", "-1\n");
  put("cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota("1:cpu:/\n"), std::nullopt);
  for (const char* text : {"", "\n", "0", "0:", "::", "1:cpu", "no colons\n"}) {
    EXPECT_EQ(quota(text), std::nullopt) << text;
  }
}

TEST(UsableCores, FollowsTheAffinity) {
  EXPECT_GE(usable_cores(), 1U);
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(usable_cores(), 1U);
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
  EXPECT_LE(usable_cores(), static_cast<unsigned>(CPU_COUNT(&before)));
}

TEST(OpenFiles, SoftLimitBecomesTheHardOne) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low{64, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(raise_open_files_limit(), before.rlim_max);
  rlimit after{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace llmproxy
