// The control socket of a running proxy: one line in, one line out, for who may open the file
// (0600). What the lines say is admin/ledger_command's. The seed of an admin listener.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "base/clock.h"
#include "net/local_socket.h"

namespace llmproxy {

class ControlServer {
 public:
  static constexpr size_t kLineBytesMax = size_t{64} << 10;
  // One connection at a time, so these bound how long the others wait.
  static constexpr Milliseconds kReadMax{2'000};
  static constexpr Milliseconds kWriteMax{2'000};

  // A line without its end to a line without its end. Called on the control thread.
  using Answer = std::function<std::string(std::string_view line)>;

  // Serves at `path` until it goes; what `answer` refers to outlives it. Null: `problem` says why.
  // Who calls this holds the lock of what is controlled.
  static std::unique_ptr<ControlServer> open(const std::string& path, Answer answer,
                                             std::string& problem);
  ~ControlServer();  // waits for an answer that is being made
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  ControlServer(net::LocalListener listener, Answer answer);
  void serve();

  net::LocalListener listener_;
  const Answer answer_;
  std::thread thread_;
};

// Says `line` to the one who serves at `path`. False: nobody answered within `limit`, and `answer`
// says in words why not; it may have been done all the same where `was_said`.
bool ask_control(const std::string& path, std::string_view line, Milliseconds limit,
                 std::string& answer, bool& was_said);

// Where the owner of this directory serves: beside it.
std::string control_path(const std::string& ledger_directory);

}  // namespace llmproxy
