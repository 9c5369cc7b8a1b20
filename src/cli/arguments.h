// The command line: options, subcommands, and which function does what.
#pragma once

namespace llmproxy {

// Runs what the arguments ask for. Returns the exit code; 64 for arguments that make no sense.
int run_command_line(int argc, char** argv);

}  // namespace llmproxy
