// The subcommand `demo`: the whole proxy on a throw-away SQLite file with one fresh key, in front
// of a small scripted model server of its own or of a real one.
#pragma once

#include <cstdint>
#include <string>

namespace llmproxy {

struct DemoOptions {
  std::string directory{};    // of the database; "" makes a temporary one, removed at the end
  std::string backend_url{};  // "" starts the scripted model server
  std::string backend_token{};
  std::string model = "demo";  // the name that clients send
  uint16_t port = 0;           // 0: any free one
};

// Serves until SIGINT, SIGTERM or SIGHUP. Exit codes as serve(), and 64 for options that make no
// sense.
int run_demo(const DemoOptions& options);

}  // namespace llmproxy
