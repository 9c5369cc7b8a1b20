// Idle connections per origin, last in first out; a coarse timer closes the old ones.
#include "net/backend_pool.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/text.h"

namespace llmproxy::net {

Origin Origin::of(const Backend& backend) {
  return {backend.host,       backend.port,    backend.is_https,
          backend.verify_ssl, backend.ca_file, backend.ca_digest};
}

BackendPool::BackendPool(Loop& loop, Resolver& resolver, BlockPool& blocks, Milliseconds sweep)
    : Timer(loop), loop_(loop), resolver_(resolver), blocks_(blocks), sweep_(sweep) {}

void BackendConnection::on_idle_event(Socket&) {
  idle_->erase(place_);
}

// Connections go before the sessions of their origins.
BackendPool::~BackendPool() {
  for (auto& [origin, place] : places_) place.idle.clear();
}

std::unique_ptr<BackendConnection> BackendPool::take_idle(const Backend& backend) {
  const auto found = places_.find(backend);
  if (found == places_.end()) return nullptr;
  BackendConnection::Idle& idle = found->second.idle;
  while (!idle.empty()) {
    auto connection = std::move(idle.back());
    nodes_.splice(nodes_.end(), idle, std::prev(idle.end()));
    if (connection->idle_until_ <= loop_.now()) continue;  // the sweep is late
    connection->socket.set_idle_watcher(nullptr);
    // What came since the loop last looked is no reply to the call that goes out now.
    const bool is_fresh = connection->idle_round_ != loop_.round() &&
                          loop_.now() - connection->idle_since_ < kTrusted;
    Socket& socket = connection->socket;
    if (is_fresh ? socket.is_quiet() : socket.is_quiet_now()) return connection;
  }
  return nullptr;
}

void BackendPool::give_back(std::unique_ptr<BackendConnection> connection,
                            Milliseconds idle_limit) {
  if (!connection->input.empty() || !connection->socket.is_quiet()) return;
  BackendConnection::Idle& idle = *connection->idle_;
  if (idle.size() >= kIdlePerOriginMax) return;
  connection->input.reset();
  connection->is_reused = true;
  connection->idle_round_ = loop_.round();
  connection->idle_since_ = loop_.now();
  connection->idle_until_ = loop_.now() + std::min<Milliseconds>(idle_limit, kIdleMax);
  connection->socket.set_idle_watcher(connection.get());
  if (nodes_.empty()) nodes_.emplace_back();
  idle.splice(idle.end(), nodes_, nodes_.begin());
  connection->place_ = std::prev(idle.end());
  idle.back() = std::move(connection);
  if (!is_armed_) arm(loop_.now() + sweep_);
  is_armed_ = true;
}

size_t BackendPool::idle_count() const {
  size_t count = 0;
  for (const auto& [origin, place] : places_) count += place.idle.size();
  return count;
}

void BackendPool::on_deadline() {
  bool is_any_left = false;
  for (auto& [origin, place] : places_) {
    place.idle.remove_if([&](const auto& kept) { return kept->idle_until_ <= loop_.now(); });
    is_any_left |= !place.idle.empty();
  }
  is_armed_ = is_any_left;
  if (is_any_left) arm(loop_.now() + sweep_);
}

TlsContext* BackendPool::find_context(const Origin& origin, std::string& error) {
  auto& context = contexts_[{origin.verify_ssl, origin.ca_file, origin.ca_digest}];
  if (context == nullptr) context = TlsContext::make(origin.verify_ssl, origin.ca_file, error);
  return context.get();
}

void BackendPool::Place::take_answer(MonotonicTime now) {
  const Resolved* answer = question != nullptr ? question->answer() : nullptr;
  if (answer == nullptr) return;
  if (!answer->addresses.empty()) {
    addresses = answer->addresses;
    has_failed = false;
  }
  if (!addresses.empty()) addresses_until = now + kNamesKept;
  question.reset();
}

// The error where there is no address: nothing in it means that there is one.
Task<Connected> BackendPool::find_addresses(const Origin& origin, Place& place,
                                            MonotonicTime deadline, Interrupt* interrupt) {
  Connected failed;
  const MonotonicTime now = loop_.now();
  place.take_answer(now);
  if (place.addresses_until > now) co_return failed;
  if (place.question == nullptr) place.question = resolver_.ask(origin.host, origin.port);
  const std::shared_ptr<Resolver::Question> question = place.question;
  place.take_answer(now);  // a literal is answered at once
  if (place.question != nullptr && (place.addresses.empty() || place.has_failed)) {
    const auto patience = (deadline - now) / (place.addresses.empty() ? 1 : kNameShare);
    co_await resolver_.wait(loop_, question, now + patience, interrupt);
    place.take_answer(loop_.now());
  }
  if (!place.addresses.empty()) co_return failed;
  failed.is_timeout = question->answer() == nullptr;
  failed.error =
      failed.is_timeout ? "the name was not resolved in time" : question->answer()->error;
  co_return failed;
}

Task<Connected> BackendPool::connect(const Backend& backend, MonotonicTime deadline,
                                     Interrupt* interrupt) {
  const auto inserted = places_.try_emplace(Origin::of(backend)).first;
  const Origin& origin = inserted->first;  // stays: places are never erased
  Place& place = inserted->second;
  Connected connected = co_await find_addresses(origin, place, deadline, interrupt);
  std::vector<Address> addresses = place.addresses;
  for (size_t i = 0; i < addresses.size() && connected.connection == nullptr; ++i) {
    const MonotonicTime now = loop_.now();
    const auto share = (deadline - now) / static_cast<int64_t>(addresses.size() - i);
    connected = co_await connect_to(addresses[i], origin, place, now + share, interrupt);
    if (connected.connection == nullptr || i == 0) continue;
    std::swap(addresses[0], addresses[i]);  // the next connection begins with the one that answers
    place.addresses = addresses;
  }
  place.has_failed = connected.connection == nullptr;
  if (place.has_failed) place.addresses_until = {};  // they may have moved: ask again
  co_return connected;
}

Task<Connected> BackendPool::connect_to(Address address, const Origin& origin, Place& place,
                                        MonotonicTime deadline, Interrupt* interrupt) {
  Connected connected;
  const int fd = ::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    connected.error = errno_text(errno);
    co_return connected;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd, address.get(), address.size) != 0 && errno != EINPROGRESS) {
    connected.error = errno_text(errno);
    ::close(fd);
    co_return connected;
  }
  auto connection = std::make_unique<BackendConnection>(loop_, fd, blocks_);
  connection->idle_ = &place.idle;
  Socket& socket = connection->socket;
  const Interrupt::Guard guard(interrupt, socket);
  IoResult result = co_await socket.connected(deadline);
  if (result.ok() && origin.is_https) {
    TlsContext* context = find_context(origin, connected.error);
    if (context == nullptr) co_return connected;
    socket.start_tls(context->make_client(origin.host, place.session));
    result = co_await socket.handshake(deadline);
  }
  if (result.ok()) {
    connected.connection = std::move(connection);
    co_return connected;
  }
  connected.is_timeout = result.status == IoStatus::kTimeout;
  connected.error = connected.is_timeout ? "timed out" : socket.error_text();
  if (connected.error.empty()) connected.error = "the connection was closed";
  co_return connected;
}

}  // namespace llmproxy::net
