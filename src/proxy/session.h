// One client connection: requests in turn (pipelined ones in order), keep-alive, and how it ends.
#pragma once

#include <cstdint>
#include <string>

#include "http/head.h"
#include "net/buffer.h"
#include "net/completion.h"
#include "net/socket.h"
#include "net/task.h"
#include "proxy/server.h"

namespace llmproxy {

class Session {
 public:
  // After a last reply to a client that may still be sending: read on this long, so that it sees
  // the reply and not a reset.
  static constexpr Milliseconds kLingerMax{2'000};
  static constexpr size_t kLingerBytesMax = size_t{64} << 20;

  enum class Kind : uint8_t {
    kServed,
    kRefused,  // one too many: it gets one reply, whatever it asks
  };

  Session(Server& server, int fd, Kind kind);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Ends it if it is between two requests, or waits for nothing but a late figure. With grace, one
  // that has not sent any request yet may still do so.
  void drain(bool has_grace);
  void abort();  // ends all its waits

  Server& server;
  net::Socket client;
  net::Buffer input;         // starts with the head of the request being served
  size_t head_bytes = 0;     // of that head
  net::Interrupt interrupt;  // of all that is not waited for on `client`
  const Kind kind;
  bool is_idle = true;        // between two requests
  bool has_answered = false;  // the client has its end, the bill has not
  uint64_t requests = 0;
  bool is_body_unread = false;  // the last request's body was not read to its end

 private:
  Server::Sessions::iterator place_;
  bool* is_gone_ = nullptr;  // set by the destructor while abort() is resuming what waits
};

// The whole life of the connection `fd`.
net::LastingTask<void> run_session(Server& server, int fd);
// Of one that gets `reply` only.
net::LastingTask<void> refuse_session(Server& server, int fd, std::string reply);

}  // namespace llmproxy
