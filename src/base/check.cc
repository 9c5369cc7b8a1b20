// Ends the process on a broken invariant. Uses no heap and no lock: it may be called from anywhere.
#include "base/check.h"

#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>

namespace llmproxy {

namespace {

iovec piece(const char* text, size_t size) {
  return {const_cast<char*>(text), size};
}

}  // namespace

void check_failed(const char* file, int line, const char* text) {
  static constexpr char kFailed[] = ": check failed: ";
  std::array<char, 12> number{};
  const auto end = std::to_chars(number.data(), number.data() + number.size(), line).ptr;
  const std::array<iovec, 6> line_pieces{
      piece(file, std::strlen(file)),
      piece(":", 1),
      piece(number.data(), static_cast<size_t>(end - number.data())),
      piece(kFailed, sizeof kFailed - 1),
      piece(text, std::strlen(text)),
      piece("\n", 1),
  };
  if (writev(STDERR_FILENO, line_pieces.data(), static_cast<int>(line_pieces.size())) < 0) {
    // Nobody is left to tell; the abort below still says that something was wrong.
  }
  std::abort();
}

}  // namespace llmproxy
