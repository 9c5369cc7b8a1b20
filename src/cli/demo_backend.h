// The scripted model server of `demo`: an OpenAI-compatible chat endpoint on a loopback port that
// answers in words and reports true counts of them (a token is a word). It bills nobody and knows
// no keys.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "net/listener.h"
#include "net/loop.h"

namespace llmproxy {

class DemoBackend final : public net::Listener::Acceptor {
 public:
  DemoBackend();   // listens and starts its thread; throws std::system_error when it cannot
  ~DemoBackend();  // cuts what is open
  DemoBackend(const DemoBackend&) = delete;
  DemoBackend& operator=(const DemoBackend&) = delete;

  std::string url() const { return "http://" + address_; }

 private:
  struct Connections;
  void on_accept(int fd) override;
  void on_accept_error(int) override {}

  net::Loop loop_;
  std::unique_ptr<Connections> connections_;
  std::unique_ptr<net::Listener> listener_;
  std::string address_;
  std::thread thread_;
};

}  // namespace llmproxy
