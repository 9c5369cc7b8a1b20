// Asks statfs(2).
#include "base/filesystem.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <cerrno>
#include <filesystem>

namespace llmproxy {

std::string volatile_filesystem(const std::string& dir) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(dir, error).lexically_normal();
  if (error) return "";
  struct statfs status {};
  while (statfs(path.c_str(), &status) != 0) {
    if (errno != ENOENT || !path.has_relative_path()) return "";
    path = path.parent_path();
  }
  switch (static_cast<unsigned>(status.f_type)) {
    case TMPFS_MAGIC:
    case RAMFS_MAGIC:
      return "tmpfs";
    case OVERLAYFS_SUPER_MAGIC:
      return "overlayfs";
    default:
      return "";
  }
}

}  // namespace llmproxy
