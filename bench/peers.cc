// Their configurations are the ones that their documentation recommends for speed.
#include "peers.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <thread>

#include "load.h"
#include "wire.h"

namespace llmproxy::bench {
namespace {

constexpr size_t kOtherFiles = 200;

// "" if it cannot be run.
std::string version_of(const std::vector<std::string>& command) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/version";
  Process process(command, {.output = path, .errors = path + ".errors"});
  if (process.wait() != 0) return "";
  std::string text = read_file(path) + read_file(path + ".errors");  // nginx tells on stderr
  return text.substr(0, text.find('\n'));
}

}  // namespace

size_t connections_max() {
  constexpr size_t kMost = 16'384;
  return std::min(kMost, (raise_open_files_limit() - kOtherFiles) / 2);
}

Peer::Peer(std::string name, std::string version)
    : name_(std::move(name)), version_(std::move(version)) {
  if (version_.empty()) {
    throw Failure(fmt::format("{} is missing; run: tools/install-packages bench", name_));
  }
  const Fd first = listen_on(port_), second = listen_on(stream_port_);
}

// nginx's worker would outlive a master that is killed.
Peer::~Peer() {
  if (process_ == nullptr) return;
  process_->signal(SIGTERM);
  process_->wait();
}

void Peer::launch(const std::vector<std::string>& command, int core) {
  const std::string errors = directory_.path() + "/errors";
  process_ = std::make_unique<Process>(command, Process::Files{.errors = errors}, core);
  for (int64_t looks = kDeliveryMax / kBetweenLooks; looks > 0; --looks) {
    if (can_connect_to(port_) && can_connect_to(stream_port_)) return;
    if (process_->has_ended()) break;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  throw Failure(fmt::format("{} did not start:\n{}", name_, read_file(errors)));
}

std::unique_ptr<Peer> Peer::start_nginx(uint16_t backend_port, bool is_tls, int core) {
  std::unique_ptr<Peer> peer(new Peer("nginx", version_of({"nginx", "-v"})));
  const std::string directory = peer->directory_.path();
  // Its connections are those to clients, to backends and its own sockets. It closes idle ones when
  // less than a sixteenth is left, so there is an eighth more.
  const size_t worker_connections = (2 * connections_max() + kOtherFiles) * 9 / 8;
  const std::string forward = fmt::format(
      "location / {{ proxy_pass {}://bench; proxy_http_version 1.1;"
      " proxy_set_header Connection \"\"; proxy_ssl_protocols TLSv1.2 TLSv1.3; }}",
      is_tls ? "https" : "http");
  write_file(directory + "/nginx.conf",
             fmt::format(R"(daemon off; worker_processes 1; pid {0}/pid;
events {{ worker_connections {5}; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  server_tokens off; client_max_body_size 64m;
  client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;
  uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
  upstream bench {{ server 127.0.0.1:{1}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{2} backlog=4096; {4} }}
  server {{ listen 127.0.0.1:{3} backlog=4096; proxy_buffering off; {4} }}
}}
)",
                         directory, backend_port, peer->port_, peer->stream_port_, forward,
                         worker_connections));
  peer->launch({"nginx", "-e", directory + "/log", "-c", directory + "/nginx.conf"}, core);
  return peer;
}

std::unique_ptr<Peer> Peer::start_haproxy(uint16_t backend_port, bool is_tls, int core) {
  std::unique_ptr<Peer> peer(new Peer("haproxy", version_of({"haproxy", "-v"})));
  const std::string path = peer->directory_.path() + "/haproxy.cfg";
  write_file(path, fmt::format(R"(global
  nbthread 1
  maxconn {3}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend plain
  bind 127.0.0.1:{1} backlog 4096
  default_backend model
frontend stream
  bind 127.0.0.1:{2} backlog 4096
  option http-no-delay
  default_backend streaming_model
backend model
  server one 127.0.0.1:{0}{4}
backend streaming_model
  option http-no-delay
  server one 127.0.0.1:{0}{4}
)",
                               backend_port, peer->port_, peer->stream_port_, connections_max(),
                               is_tls ? " ssl verify none" : ""));
  peer->launch({"haproxy", "-db", "-f", path}, core);
  return peer;
}

std::unique_ptr<Peer> Peer::start_copy(uint16_t backend_port, int core) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  std::unique_ptr<Peer> peer(new Peer("copy loop", "of this commit"));
  peer->stream_port_ = peer->port_;
  peer->launch(
      {self.parent_path() / "copy", std::to_string(peer->port_), std::to_string(backend_port)},
      core);
  return peer;
}

}  // namespace llmproxy::bench
