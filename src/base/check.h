// Assertions that stay on in release builds: a broken invariant must not write a bill.
#pragma once

namespace llmproxy {

// Writes "file:line: check failed: text" to stderr and aborts. Never returns.
[[noreturn]] void check_failed(const char* file, int line, const char* text);

}  // namespace llmproxy

#define LLMPROXY_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::llmproxy::check_failed(__FILE__, __LINE__, #condition))
