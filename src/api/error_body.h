// Errors in the words of the client's API.
#pragma once

#include <string>

#include "api/endpoint.h"
#include "base/result.h"

namespace llmproxy {

// OpenAI: {"error":{"message":...,"type":...,"param":...,"code":...}}, all four members always
// there. `type` follows from the status (protocol.md section 3.2).
std::string error_body(Dialect dialect, const Error& error);

// The event that tells of an error inside a stream that has begun (OpenAI: `data:
// {"error":{...}}`). The connection is cut after it; a clean end is never invented.
std::string error_event(Dialect dialect, const Error& error);

}  // namespace llmproxy
