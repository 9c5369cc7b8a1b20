// A scripted OpenAI-compatible server on a thread of its own: plain replies and streams whose
// events carry the time at which they were written. Reads only what make_request() writes,
// forwarded or not.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "wire.h"

namespace llmproxy::bench {

constexpr int64_t kPlainCompletionTokens = 17;

struct Script {
  size_t events = 0;                // of a stream, the one with finish_reason included
  std::chrono::nanoseconds pace{};  // from one event to the next; 0: the whole stream in one write
};

// The monotonic nanoseconds of an event; 0 if it carries none (usage, [DONE]).
int64_t stamp_of(std::string_view event);

class Backend {
 public:
  explicit Backend(const Script& script);
  ~Backend();
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  uint16_t port() const { return port_; }

 private:
  struct Connection;

  void run();
  void accept_one();
  void read(Connection& connection);
  void answer(Connection& connection, std::string_view body);
  void begin_stream(Connection& connection);
  void write_next(Connection& connection);
  void append_event(Connection& connection, std::string& out) const;
  template <class Action>
  void guard(Connection& connection, Action action);
  int64_t next_due() const;  // monotonic ns; INT64_MAX: no stream is open

  const Script script_;
  std::string burst_;  // all events of a stream but the last, made once
  uint16_t port_ = 0;
  Fd listener_;
  Fd epoll_;
  Fd stop_;
  std::map<int, std::unique_ptr<Connection>> connections_;
  std::thread thread_;
};

}  // namespace llmproxy::bench
