// Reads affinity, cgroup files and limits. A file that is missing or odd counts as no limit.
#include "base/cores.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

namespace llmproxy {

namespace {

// The kernel answers EINVAL to a set smaller than its own; no machine has more CPUs than this.
constexpr size_t kCpusMax = 65'536;

unsigned affinity_cores() {
  const std::vector<cpu_set_t> none(kCpusMax / CPU_SETSIZE);
  std::vector<cpu_set_t> cpus = none;
  const size_t bytes = cpus.size() * sizeof(cpu_set_t);
  if (sched_getaffinity(0, bytes, cpus.data()) != 0) return 1;
  return static_cast<unsigned>(std::max(CPU_COUNT_S(bytes, cpus.data()), 1));
}

std::optional<double> smaller(std::optional<double> a, std::optional<double> b) {
  if (a && b) return std::min(*a, *b);
  return a ? a : b;
}

// Version 2, cpu.max: "QUOTA PERIOD" in microseconds, or "max PERIOD".
std::optional<double> quota_of_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0;
  double period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// Version 1: two files, and -1 for no quota.
std::optional<double> quota_of_v1(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us");
  std::ifstream period_file(folder + "/cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  if (!(quota_file >> quota) || !(period_file >> period)) return std::nullopt;
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// The group at `path` and each of its parents. In a container `path` may be the host's, while
// `mount` shows the container's own group as the root: the loop ends there in any case.
template <class ReadQuota>
std::optional<double> smallest_up_the_tree(const std::string& mount, std::string path,
                                           ReadQuota read_quota) {
  std::optional<double> quota;
  for (;;) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    quota = smaller(quota, read_quota(mount + path));
    if (path.empty()) return quota;
    path.erase(std::min(path.rfind('/'), path.size()));
  }
}

bool names_cpu(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

std::optional<double> cpu_quota(std::string_view membership, const std::string& mount) {
  std::optional<double> quota;
  std::istringstream lines{std::string(membership)};
  // "ID:CONTROLLERS:PATH"; the line of version 2 has no controllers (cgroups(7)).
  std::string id;
  std::string controllers;
  std::string path;
  while (std::getline(lines, id, ':') && std::getline(lines, controllers, ':') &&
         std::getline(lines, path)) {
    if (controllers.empty()) {
      quota = smaller(quota, smallest_up_the_tree(mount, path, quota_of_v2));
    } else if (names_cpu(controllers)) {
      const auto own = smallest_up_the_tree(mount + "/" + controllers, path, quota_of_v1);
      quota = smaller(quota, own ? own : smallest_up_the_tree(mount + "/cpu", path, quota_of_v1));
    }
  }
  return quota;
}

unsigned usable_cores() {
  unsigned cores = affinity_cores();
  std::ifstream file("/proc/self/cgroup");
  const std::string membership{std::istreambuf_iterator<char>(file), {}};
  if (const auto quota = cpu_quota(membership, "/sys/fs/cgroup")) {
    cores = std::min(cores, static_cast<unsigned>(std::min(std::ceil(*quota), 1e6)));
  }
  return std::max(cores, 1U);
}

uint64_t raise_open_files_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const rlimit raised{limit.rlim_max, limit.rlim_max};
  if (setrlimit(RLIMIT_NOFILE, &raised) != 0) return limit.rlim_cur;
  return raised.rlim_cur;
}

}  // namespace llmproxy
