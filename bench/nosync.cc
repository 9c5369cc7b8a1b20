// To be preloaded: takes the durability out of the files below the directory $NOSYNC_DIRECTORY.
// O_DSYNC and O_DIRECT fall away, fsync(2) and fdatasync(2) do nothing. What is left is the
// ledger's work without the disk's: the other side of bench/durability.
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdarg>
#include <cstdlib>
#include <string>
#include <string_view>

namespace {

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool is_below(int fd) {
  const char* const directory = std::getenv("NOSYNC_DIRECTORY");
  if (directory == nullptr) return false;
  std::array<char, PATH_MAX> path;
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = readlink(link.c_str(), path.data(), path.size());
  return size > 0 &&
         std::string_view(path.data(), static_cast<size_t>(size)).starts_with(directory);
}

}  // namespace

extern "C" {

int openat(int directory, const char* path, int flags, ...) {
  static auto* const real = next<int(int, const char*, int, ...)>("openat");
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  const bool is_ledgers = directory != AT_FDCWD && is_below(directory);
  return real(directory, path, is_ledgers ? flags & ~(O_DSYNC | O_DIRECT) : flags, mode);
}

int fdatasync(int fd) {
  static auto* const real = next<int(int)>("fdatasync");
  return is_below(fd) ? 0 : real(fd);
}

int fsync(int fd) {
  static auto* const real = next<int(int)>("fsync");
  return is_below(fd) ? 0 : real(fd);
}

}  // extern "C"
