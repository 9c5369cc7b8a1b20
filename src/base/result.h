// Error and Result: how every part reports what input or network decided. Exceptions are for bugs
// and start-up only.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace llmproxy {

enum class Blame : unsigned char { kClient, kBackend, kProxy };

// One failed request, as it will be told. `message`, `code` and `param` reach the client, so they
// never hold a secret, a prompt or an address inside the operator's network; `detail` reaches only
// the log.
struct Error {
  int status = 500;  // HTTP status towards the client
  Blame blame = Blame::kProxy;
  std::string message;
  std::string code{};   // OpenAI `error.code`; empty means null
  std::string param{};  // the request member at fault; empty means null
  std::string detail{};
  int retry_after_s = 0;     // > 0: sent as Retry-After
  bool should_retry = true;  // false: sent as `x-should-retry: false` (SDKs then stop)
};

// An Error or none. As wide as a pointer: every step of a request returns one, and seldom has any.
class [[nodiscard]] MaybeError {
 public:
  MaybeError() = default;
  MaybeError(std::nullopt_t) {}  // NOLINT: implicit
  MaybeError(Error error) : error_(std::make_unique<Error>(std::move(error))) {}  // NOLINT

  explicit operator bool() const { return error_ != nullptr; }
  Error& operator*() const { return *error_; }
  Error* operator->() const { return error_.get(); }

 private:
  std::unique_ptr<Error> error_;
};

// A value or the Error that took its place. Asking for the wrong one ends the process.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by intent
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() { return check_value(), std::get<0>(state_); }
  const T& value() const { return check_value(), std::get<0>(state_); }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  Error& error() { return check_error(), std::get<1>(state_); }
  const Error& error() const { return check_error(), std::get<1>(state_); }

 private:
  void check_value() const { LLMPROXY_CHECK(ok()); }
  void check_error() const { LLMPROXY_CHECK(!ok()); }

  std::variant<T, Error> state_;
};

}  // namespace llmproxy
