// llm-billing-proxy: reads the command line and hands over to the part that is asked for. Without a
// subcommand it serves.
#include <cstdio>
#include <exception>

#include "cli/arguments.h"

int main(int argc, char** argv) {
  try {
    return llmproxy::run_command_line(argc, argv);
  } catch (const std::exception& bug) {
    std::fprintf(stderr, "llm-billing-proxy: %s\n", bug.what());
    return 70;  // EX_SOFTWARE
  }
}
