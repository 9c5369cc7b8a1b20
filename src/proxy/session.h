// One client connection: requests in turn (pipelined ones in order), keep-alive, and how it ends.
#pragma once

#include <cstdint>
#include <list>

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

  Session(Server& server, int fd);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Ends it if it is between two requests. With grace, one that has not sent any yet may still do
  // so.
  void drain(bool has_grace);
  void abort();  // ends all its waits

  Server& server;
  net::Socket client;
  net::Buffer input;                      // starts with the head of the request being served
  size_t head_bytes = 0;                  // of that head
  net::Socket* backend_socket = nullptr;  // of the call under way, for abort()
  net::Interrupt interrupt;               // fired by abort()
  bool is_idle = true;                    // between two requests
  uint64_t requests = 0;
  bool is_body_unread = false;  // the last request's body was not read to its end

 private:
  std::list<Session*>::iterator place_;
  bool* is_gone_ = nullptr;  // set by the destructor while abort() is resuming what waits
};

// The whole life of the connection `fd`.
net::Task<void> run_session(Server& server, int fd);

}  // namespace llmproxy
