// What the operating system grants this process: cores and open files. Changes only the soft limit
// of open files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace llmproxy {

// Cores this process may use at once: its affinity, and the cgroup's CPU quota rounded up. At
// least 1.
unsigned usable_cores();

// The smallest CPU quota, in cores, of the cgroup named by `membership` (the text of
// /proc/self/cgroup) and of its parents, under `mount` (/sys/fs/cgroup); versions 1 and 2. Nothing
// when none is set.
std::optional<double> cpu_quota(std::string_view membership, const std::string& mount);

// Raises the soft limit of open files to the hard one. Returns the limit in force.
uint64_t raise_open_files_limit();

}  // namespace llmproxy
