// An OpenAI-compatible server on a thread of its own, which answers as each request asks: plain
// replies, and streams whose events carry the time at which they were written. Reads only what
// make_request() writes, forwarded or not.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "wire.h"

struct ssl_ctx_st;

namespace llmproxy::bench {

// The monotonic nanoseconds of an event; 0 if it carries none (usage, [DONE]).
int64_t stamp_of(std::string_view event);

// Whether a reply that somebody wrote anew still says all that the backend said: its text, the
// counts, the end.
bool holds_reply(std::string_view body, const Ask& ask);

class Backend {
 public:
  // With TLS its certificate is nobody's.
  explicit Backend(size_t ports = 1, bool is_tls = false);
  ~Backend();
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  uint16_t port() const { return ports_[0]; }
  const std::vector<uint16_t>& ports() const { return ports_; }

 private:
  struct Connection;

  void run();
  void watch(int fd);
  void accept_one(int listener);
  void read(Connection& connection);
  static bool read_some(Connection& connection);
  void take_request(Connection& connection);
  void answer(Connection& connection, std::string_view body);
  void begin_stream(Connection& connection);
  void write_next(Connection& connection);
  static void append_event(Connection& connection, std::string& out);
  const std::string& burst(size_t events);
  template <class Action>
  void guard(Connection& connection, Action action);
  int64_t next_due() const;  // monotonic ns; INT64_MAX: no paced stream is open
  void set_due(Connection& connection, int64_t due);
  void forget_due(Connection& connection);

  std::map<size_t, std::string> bursts_;  // by events: all of a stream but the last, made once
  ssl_ctx_st* tls_ = nullptr;             // null: none
  std::vector<uint16_t> ports_;
  std::map<int, Fd> listeners_;
  Fd epoll_;
  Fd stop_;
  std::map<int, std::unique_ptr<Connection>> connections_;
  std::set<std::pair<int64_t, int>> due_;  // when the next event of a stream is due, and whose
  std::thread thread_;
};

}  // namespace llmproxy::bench
