// The errors that more than one step tells.
#pragma once

#include <string>

#include "base/result.h"

namespace llmproxy {

// 502 or 504. `detail` is for the log.
Error backend_error(int status, std::string message, std::string detail = {});

// Of a call that was sent, and may have been worked for: SDKs must not send it again by themselves.
Error after_sending(Error error);

Error shutting_down();
Error cannot_record();
Error no_memory();  // limits.memory_bytes_max

}  // namespace llmproxy
