// A JSON text read whole and strictly by simdjson's DOM parser (3.0.1 refuses NaN, trailing text,
// invalid UTF-8, lone surrogates and integers beyond 64 bits; its On-Demand parser does not), and
// the few readings that several APIs share. Only for .cc files (of api/ and admin/).
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "api/usage.h"

namespace llmproxy {

constexpr size_t kJsonDepthMax = 64;

// The parser and its padded copy of the text belong to the thread, so only one JsonText lives at a
// time.
class JsonText {
 public:
  explicit JsonText(std::string_view text);
  ~JsonText();
  JsonText(const JsonText&) = delete;
  JsonText& operator=(const JsonText&) = delete;

  bool ok() const { return error_ == simdjson::SUCCESS; }
  simdjson::error_code error() const { return error_; }
  simdjson::dom::element root() const { return root_; }

 private:
  simdjson::error_code error_ = simdjson::UNINITIALIZED;
  simdjson::dom::element root_{};
};

// As JavaScript has it: not null, false, 0 or "".
bool is_truthy(simdjson::dom::element value);

// A whole number from 0 to kCountMax, also when written 7.0.
std::optional<int64_t> read_count(simdjson::dom::element value);

// Both counts of a usage object under these names, each there exactly once; else nothing.
std::optional<Figure> read_figure(simdjson::dom::element usage, std::string_view prompt_name,
                                  std::string_view completion_name);

}  // namespace llmproxy
