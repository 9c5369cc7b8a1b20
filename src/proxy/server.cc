// Accepts, caps, reloads, drains.
#include "proxy/server.h"

#include <string_view>
#include <utility>

#include "base/large_blocks.h"
#include "base/result.h"
#include "base/text.h"
#include "proxy/reply.h"
#include "proxy/session.h"

namespace llmproxy {
namespace {

class Message final : public net::Posted {
 public:
  explicit Message(std::function<void()> body) : body_(std::move(body)) {}
  void run() override {
    const std::unique_ptr<Message> self(this);
    body_();
  }

 private:
  std::function<void()> body_;
};

}  // namespace

Server::Server(Parts parts, std::shared_ptr<const Config> config, const net::ListenSocket& socket)
    : parts_(parts),
      config_(std::move(config)),
      backends_(loop_, parts_.resolver, blocks_),
      ledger_wake_(loop_, parts_.ledger),
      grace_(loop_, *this, &Server::end_grace),
      refusal_lines_(loop_, *this, &Server::tell_refusals),
      trim_(loop_, *this, &Server::trim) {
  listener_.emplace(loop_, socket, *this);
}

// A message that came after run() had returned still refers to what goes now.
Server::~Server() {
  loop_.run_posted();
}

void Server::run() {
  loop_.run();
  loop_.run_posted();  // what its last round left: the ledger may go before the server does
}

void Server::tell(std::function<void()> message) {
  loop_.post(*std::make_unique<Message>(std::move(message)).release());
}

void Server::reload(std::shared_ptr<const Config> config, std::function<void()> then) {
  tell([this, config = std::move(config), then = std::move(then)] {
    config_ = config;
    then();
  });
}

void Server::drain() {
  tell([this] {
    if (std::exchange(is_draining_, true)) return;
    listener_.reset();
    grace_.arm(loop_.now() + kDrainGrace);
    drain_sessions(true);
  });
}

void Server::drain_sessions(bool has_grace) {
  for (auto next = sessions_.begin(); next != sessions_.end();) (*next++)->drain(has_grace);
  stop_if_empty();
}

void Server::abort() {
  tell([this] {
    is_draining_ = is_aborting_ = true;
    listener_.reset();
    for (auto next = sessions_.begin(); next != sessions_.end();) (*next++)->abort();
    stop_if_empty();
  });
}

void Server::stop_if_empty() {
  if (is_draining_ && sessions_.empty()) loop_.stop();
}

Server::Sessions::iterator Server::enter(Session& session) {
  return sessions_.insert(sessions_.end(), &session);
}

void Server::leave(Sessions::iterator place) {
  const bool is_refused = (*place)->kind == Session::Kind::kRefused;
  sessions_.erase(place);
  is_refused ? --refused_ : --parts_.connections;
  stop_if_empty();
}

void Server::on_accept(int fd) {
  counters_.connections.add();
  if (parts_.connections.fetch_add(1) >= config_->limits.connections_max) {
    --parts_.connections;
    return refuse(fd);
  }
  net::spawn(run_session(*this, fd));
  if (!std::exchange(is_trimming_, true)) trim_.arm(loop_.now() + kTrim);
}

void Server::refuse(int fd) {
  Error error{503, Blame::kProxy, "Too many connections. Try again shortly."};
  error.code = "overloaded";
  error.retry_after_s = 1;
  LastReply reply = last_reply(*this, error);
  ++refusals_;
  last_refusal_id_ = reply.id_hex;
  if (!is_telling_refusals_) tell_refusals();
  if (refused_ >= kRefusedMax) return net::send_and_close(fd, "");
  ++refused_;
  net::spawn(refuse_session(*this, fd, std::move(reply.bytes)));
}

// The first one at once, then all that came within a while: a flood must not fill the log.
void Server::tell_refusals() {
  is_telling_refusals_ = refusals_ > 0;
  if (!is_telling_refusals_) return;
  parts_.log.warning("connections refused: count={} status=503 last_id={}: connections_max={}",
                     std::exchange(refusals_, 0), last_refusal_id_,
                     config_->limits.connections_max);
  refusal_lines_.arm(loop_.now() + kRefusalLines);
}

// Until there is nothing to trim and nobody who could leave something.
void Server::trim() {
  const size_t freed = blocks_.trim() + heads_.trim() + net::trim_frames();
  trimmed_bytes_ += freed;
  if (trimmed_bytes_ >= kTrimBytesMin && parts_.worker.start(give_back_freed_memory)) {
    trimmed_bytes_ = 0;
  }
  is_trimming_ = freed > 0 || !sessions_.empty();
  if (is_trimming_) trim_.arm(loop_.now() + kTrim);
}

void Server::on_accept_error(int error) {
  parts_.log.error("accept: {}; resting {} ms", errno_text(error), net::Listener::kRest.count());
}

}  // namespace llmproxy
