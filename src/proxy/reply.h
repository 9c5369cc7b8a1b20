// What the proxy itself says to a client: the heads of replies, and errors in the client's dialect.
#pragma once

#include <string>
#include <string_view>

#include "api/endpoint.h"
#include "base/result.h"
#include "net/task.h"
#include "proxy/session.h"

namespace llmproxy {

struct Request;

// "HTTP/1.1 200 OK\r\nDate: ...\r\n"
void append_status_line(std::string& out, int status);

// "Content-Length: N\r\n", "Connection: close\r\n" where the connection ends, and the empty line.
void append_length_and_end(std::string& out, size_t length, bool keeps_alive);

// A JSON body that is the whole answer.
net::Task<void> send_json(Request& request, int status, std::string body, std::string_view headers);

// An Error as the whole answer to a request of which nothing has been sent yet.
net::Task<void> tell_error(Request& request, const Error& error);

// An Error as the last reply on a connection that has no request (yet): a head that could not be
// parsed, or one connection too many. Under an id of its own, which it returns in hex.
struct LastReply {
  std::string bytes;
  std::string id_hex;
};
LastReply last_reply(Server& server, const Error& error);

}  // namespace llmproxy
