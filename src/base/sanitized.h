// Which sanitizer this is built with: GCC defines a macro, clang answers a question. For tests of
// what a sanitizer catches, or changes.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define LLMPROXY_HAS_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define LLMPROXY_HAS_TSAN 1
#elif defined(__clang__)
#if __has_feature(address_sanitizer)
#define LLMPROXY_HAS_ASAN 1
#elif __has_feature(thread_sanitizer)
#define LLMPROXY_HAS_TSAN 1
#endif
#endif
