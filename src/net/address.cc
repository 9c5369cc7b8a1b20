// Literals by inet_pton, names by getaddrinfo on two threads.
#include "net/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "base/thread_name.h"

namespace llmproxy::net {

std::string Address::text() const {
  std::array<char, INET6_ADDRSTRLEN> host{};
  if (family() == AF_INET6) {
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    inet_ntop(AF_INET6, &in6->sin6_addr, host.data(), host.size());
    return fmt::format("[{}]:{}", host.data(), ntohs(in6->sin6_port));
  }
  const auto* in = reinterpret_cast<const sockaddr_in*>(&storage);
  inet_ntop(AF_INET, &in->sin_addr, host.data(), host.size());
  return fmt::format("{}:{}", host.data(), ntohs(in->sin_port));
}

std::optional<Address> Address::from_literal(const std::string& host, uint16_t port) {
  Address address;
  auto* in = reinterpret_cast<sockaddr_in*>(&address.storage);
  if (inet_pton(AF_INET, host.c_str(), &in->sin_addr) == 1) {
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    address.size = sizeof(sockaddr_in);
    return address;
  }
  auto* in6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET6, host.c_str(), &in6->sin6_addr) == 1) {
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    address.size = sizeof(sockaddr_in6);
    return address;
  }
  return std::nullopt;
}

std::vector<Address> resolve_now(const std::string& host, uint16_t port, std::string& error) {
  if (const auto literal = Address::from_literal(host, port)) return {*literal};
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int code = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (code != 0) {
    error = gai_strerror(code);
    return {};
  }
  std::vector<Address> addresses;
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family != AF_INET && entry->ai_family != AF_INET6) continue;
    if (addresses.size() == kAddressesMax) break;
    Address& address = addresses.emplace_back();
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    address.size = entry->ai_addrlen;
  }
  freeaddrinfo(list);
  if (addresses.empty()) error = "no IPv4 or IPv6 address";
  return addresses;
}

struct Resolver::Shared {
  explicit Shared(LookUp* its_look_up) : look_up(its_look_up) {}
  LookUp* const look_up;
  std::mutex mutex;
  std::condition_variable asked;
  std::deque<std::shared_ptr<Question>> questions;  // guarded by mutex
  bool is_stopping = false;                         // guarded by mutex
};

Resolver::Resolver(LookUp* look_up) : shared_(std::make_shared<Shared>(look_up)) {
  for (size_t i = 0; i < kThreads; ++i) std::thread(run, shared_).detach();
}

Resolver::~Resolver() {
  const std::lock_guard lock(shared_->mutex);
  shared_->is_stopping = true;
  shared_->questions.clear();
  shared_->asked.notify_all();
}

void Resolver::run(std::shared_ptr<Shared> shared) {
  name_thread("resolver");
  std::unique_lock lock(shared->mutex);
  for (;;) {
    shared->asked.wait(lock, [&] { return shared->is_stopping || !shared->questions.empty(); });
    if (shared->is_stopping) return;
    const std::shared_ptr<Question> question = std::move(shared->questions.front());
    shared->questions.pop_front();
    if (question.use_count() == 1) continue;  // who asked has given up
    lock.unlock();
    question->answer_.addresses =
        shared->look_up(question->host_, question->port_, question->answer_.error);
    lock.lock();
    if (shared->is_stopping) return;  // the loops may be gone
    question->is_answered_ = true;
    for (const auto& notice : question->waiting_) notice->give();
    question->waiting_.clear();
  }
}

std::shared_ptr<Resolver::Question> Resolver::ask(std::string host, uint16_t port) {
  auto question = std::make_shared<Question>();
  if (const auto literal = Address::from_literal(host, port)) {
    question->answer_.addresses.push_back(*literal);
    question->is_answered_ = true;
    return question;
  }
  question->host_ = std::move(host);
  question->port_ = port;
  const std::lock_guard lock(shared_->mutex);
  if (shared_->questions.size() >= kQueueMax) {
    question->answer_.error = "too many names waiting to be resolved";
    question->is_answered_ = true;
    return question;
  }
  shared_->questions.push_back(question);
  shared_->asked.notify_one();
  return question;
}

Task<void> Resolver::wait(Loop& loop, std::shared_ptr<Question> question, MonotonicTime deadline,
                          Interrupt* interrupt) {
  const auto notice = Notice::make(loop);
  {
    const std::lock_guard lock(shared_->mutex);
    if (question->is_answered_) co_return;
    question->waiting_.push_back(notice);
  }
  const bool is_given = co_await notice->wait(deadline, interrupt);
  if (is_given) co_return;
  const std::lock_guard lock(shared_->mutex);
  std::erase(question->waiting_, notice);  // nobody is told who may be gone by then
}

}  // namespace llmproxy::net
