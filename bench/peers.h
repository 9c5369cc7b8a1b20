// Proxies that forward and do nothing else, for the comparison: no access log, kept connections to
// the backend, one worker. Debian packages nginx-light and haproxy, found in PATH.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "process.h"

namespace llmproxy::bench {

// Connections that the system's limit of open files allows: each takes two in what is measured, and
// two in the load with its backend.
size_t connections_max();

class Peer {
 public:
  // Listening already. `is_tls`: to the backend, whose certificate is not checked.
  static std::unique_ptr<Peer> start_nginx(uint16_t backend_port, bool is_tls = false,
                                           int core = kMeasuredCore);
  static std::unique_ptr<Peer> start_haproxy(uint16_t backend_port, bool is_tls = false,
                                             int core = kMeasuredCore);
  // The floor: bench/copy, which is beside this program. It knows no TLS, and keeps a connection to
  // the backend for each of its own.
  static std::unique_ptr<Peer> start_copy(uint16_t backend_port, int core = kMeasuredCore);

  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  const std::string& name() const { return name_; }
  const std::string& version() const { return version_; }
  pid_t pid() const { return process_->pid(); }
  // Streams have one of their own: nginx buffers replies unless told otherwise, and HAProxy waits
  // for more.
  uint16_t port(bool is_stream) const { return is_stream ? stream_port_ : port_; }

 private:
  Peer(std::string name, std::string version);
  void launch(const std::vector<std::string>& command, int core);

  std::string name_, version_;
  TemporaryDirectory directory_;
  uint16_t port_ = 0, stream_port_ = 0;
  std::unique_ptr<Process> process_;
};

}  // namespace llmproxy::bench
