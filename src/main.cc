// llm-billing-proxy: reads the command line and hands over to the part that is asked for. Without a
// subcommand it serves.
#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <exception>

#include "cli/arguments.h"
#include "cli/serve.h"
#include "db/open.h"

namespace {

// A closed stdin, stdout or stderr must not become a socket or the database. Writing to what stands
// in its place fails as before.
void fill_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) open("/dev/null", O_RDONLY);
  }
}

}  // namespace

int main(int argc, char** argv) {
  llmproxy::block_serve_signals();
  fill_standard_descriptors();
  try {
    llmproxy::unlink_driver_counters();
    return llmproxy::run_command_line(argc, argv);
  } catch (const std::exception& bug) {
    std::fprintf(stderr, "llm-billing-proxy: %s\n", bug.what());
    return 70;  // EX_SOFTWARE
  }
}
