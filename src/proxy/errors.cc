// Their words, in one place.
#include "proxy/errors.h"

#include <utility>

namespace llmproxy {

Error backend_error(int status, std::string message, std::string detail) {
  Error error{status, Blame::kBackend, std::move(message)};
  error.code = status == 504 ? "timeout" : "upstream_error";
  error.detail = std::move(detail);
  return error;
}

Error after_sending(Error error) {
  error.should_retry = false;
  return error;
}

Error shutting_down() {
  Error error{503, Blame::kProxy, "The server is shutting down."};
  error.code = "service_unavailable";
  return error;
}

Error cannot_record() {
  Error error{503, Blame::kProxy, "The server cannot record its work at the moment."};
  error.code = "service_unavailable";
  return error;
}

Error no_memory() {
  Error error{503, Blame::kProxy, "The server is busy. Try again shortly."};
  error.code = "overloaded";
  error.retry_after_s = 1;
  error.detail = "limits.memory_bytes_max is used up";
  return error;
}

}  // namespace llmproxy
