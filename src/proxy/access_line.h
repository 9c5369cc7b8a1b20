// The line of the log that tells of one request: what was asked, what came of it, what it cost. One
// word after the other, name=value; no prompt and no secret is among them.
#pragma once

#include <fmt/format.h>

namespace llmproxy {

struct Request;

using AccessLine = fmt::memory_buffer;  // room for an ordinary one without allocation

// Of a request that is over; now is its end. On its server's thread.
void append_access_line(AccessLine& line, const Request& request);

}  // namespace llmproxy
