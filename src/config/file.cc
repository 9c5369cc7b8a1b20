// Opens without waiting, looks what it is, reads.
#include "config/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/text.h"

namespace llmproxy {

namespace {

// "" or why not. `text` is left as long as what was read.
std::string read_descriptor(int fd, size_t bytes_max, std::string& text) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return fmt::format("cannot be read: {}", errno_text(errno));
  if (S_ISDIR(status.st_mode)) return "is a directory; expected a regular file";
  if (!S_ISREG(status.st_mode)) {
    return "is a pipe, a socket or a device; expected a regular file";
  }
  text.resize(bytes_max + 1);
  size_t size = 0;
  ssize_t got = 0;
  while (size < text.size() && (got = read(fd, text.data() + size, text.size() - size)) != 0) {
    if (got < 0 && errno != EINTR) break;
    if (got > 0) size += static_cast<size_t>(got);
  }
  const int error = errno;
  text.resize(size);
  if (got < 0) return fmt::format("cannot be read: {}", errno_text(error));
  if (size > bytes_max) return fmt::format("is too long; expected at most {} bytes", bytes_max);
  return "";
}

}  // namespace

std::string read_regular_file(const std::string& path, size_t bytes_max, std::string& text) {
  const bool is_path = path.find('\0') == std::string::npos;
  if (!is_path) errno = EINVAL;
  // A pipe that nobody writes to would hold up an open for ever.
  const int fd = is_path ? open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
  if (fd < 0) return fmt::format("cannot be opened: {}", errno_text(errno));
  std::string reason = read_descriptor(fd, bytes_max, text);
  close(fd);
  return reason;
}

}  // namespace llmproxy
