// By hand rather than by a format: with one it cost more than all the rest of a plain request.
#include "proxy/access_line.h"

#include <algorithm>
#include <string_view>

#include "api/json_edit.h"
#include "proxy/request.h"

namespace llmproxy {
namespace {

void add(AccessLine& line, std::string_view text) {
  const size_t at = line.size();
  line.resize(at + text.size());  // append() is no inline function
  text.copy(line.data() + at, text.size());
}

void add_number(AccessLine& line, int64_t number) {
  const fmt::format_int digits(number);
  add(line, {digits.data(), digits.size()});
}

// Milliseconds with one decimal.
void add_ms(AccessLine& line, MonotonicTime::duration time) {
  constexpr std::chrono::microseconds kTenth{100};
  const int64_t tenths = std::max<int64_t>((time + kTenth / 2) / kTenth, 0);
  add_number(line, tenths / 10);
  line.push_back('.');
  line.push_back(static_cast<char>('0' + tenths % 10));
}

// In quotes where it would not stand as one word.
void add_word(AccessLine& line, std::string_view value) {
  const bool is_plain = !value.empty() && std::ranges::all_of(value, [](unsigned char c) {
    return c > ' ' && c != '"' && c != '=' && c != '\\' && c < 0x7f;
  });
  is_plain ? add(line, value) : add(line, quote_json(value));
}

// Also a model that nobody serves, so that an operator sees what was asked for; but only where it
// looks like a model's name: whatever else a client puts there stays out of the log.
void add_model(AccessLine& line, const Request& request) {
  constexpr size_t kNameMax = 64;
  constexpr std::string_view kNameCharacters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:/@+";
  if (request.backend != nullptr) return add_word(line, request.backend->name);
  const std::string& name = request.call.model;
  const bool is_name = !name.empty() && name.size() <= kNameMax &&
                       name.find_first_not_of(kNameCharacters) == std::string::npos;
  add(line, is_name ? name : "-");
}

void add_figure(AccessLine& line, const Request& request) {
  if (!request.is_settled || request.outcome.kind != Outcome::Kind::kBilled) {
    return add(line, " prompt_n=- completion_n=-");
  }
  add(line, " prompt_n=");
  add_number(line, request.outcome.figure.prompt_n);
  add(line, " completion_n=");
  add_number(line, request.outcome.figure.completion_n);
}

}  // namespace

void append_access_line(AccessLine& line, const Request& request) {
  const MonotonicTime now = monotonic_now();
  add(line, "request id=");
  add(line, request.id_hex());
  add(line, " path=");
  add(line, request.endpoint != nullptr ? request.endpoint->path : "-");
  add(line, " key=");
  add_word(line, request.key != nullptr ? std::string_view(request.key->id) : "-");
  add(line, " user=");
  add_word(line, request.key != nullptr ? std::string_view(request.key->user_id.text) : "-");
  add(line, " model=");
  add_model(line, request);
  add(line, " status=");
  add_number(line, request.status);
  add(line, " bytes=");
  add_number(line, static_cast<int64_t>(request.bytes_to_client));
  add(line, " backend=");
  add(line, request.backend != nullptr ? std::string_view(request.backend->authority) : "-");
  add(line, " first_byte_ms=");
  add_ms(line, request.first_byte.value_or(now) - request.started);
  add(line, " duration_ms=");
  add_ms(line, now - request.started);
  add_figure(line, request);
  add(line, " end=");
  add(line, request.ended);
  if (request.is_settled) {
    add(line, " bill=\"");
    add(line, request.outcome.reason);
    add(line, "\"");
  }
  if (!request.detail.empty()) {
    add(line, " detail=");
    add(line, quote_json(request.detail));
  }
}

}  // namespace llmproxy
