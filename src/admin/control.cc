// A thread that does nothing else, and blocks.
#include "admin/control.h"

#include <filesystem>
#include <utility>

#include "base/thread_name.h"

namespace llmproxy {

std::unique_ptr<ControlServer> ControlServer::open(const std::string& path, Answer answer,
                                                   std::string& problem) {
  auto listener = net::LocalListener::open(path, problem);
  if (!listener) return nullptr;
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(*listener), std::move(answer)));
}

ControlServer::ControlServer(net::LocalListener listener, Answer answer)
    : listener_(std::move(listener)), answer_(std::move(answer)), thread_([this] {
        name_thread("control");
        serve();
      }) {}

ControlServer::~ControlServer() {
  listener_.stop();
  thread_.join();
}

void ControlServer::serve() {
  while (auto connection = listener_.accept()) {
    std::string line;
    if (!connection->read_line(line, kLineBytesMax, kReadMax)) continue;
    connection->write(answer_(line) + "\n", kWriteMax);
  }
}

bool ask_control(const std::string& path, std::string_view line, Milliseconds limit,
                 std::string& answer, bool& was_said) {
  constexpr size_t kAnswerBytesMax = size_t{1} << 20;
  was_said = false;
  auto connection = net::LocalConnection::open(path, answer);
  if (!connection) return false;
  was_said = true;
  std::string said(line);
  said += '\n';
  if (connection->write(said, limit) && connection->read_line(answer, kAnswerBytesMax, limit))
    return true;
  answer = path + ": no answer came";
  return false;
}

std::string control_path(const std::string& ledger_directory) {
  const std::filesystem::path directory(ledger_directory);
  const auto whole = directory.has_filename() ? directory : directory.parent_path();
  return (whole.parent_path() / "control.sock").native();
}

}  // namespace llmproxy
