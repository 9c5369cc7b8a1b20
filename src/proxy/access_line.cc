// By hand rather than by a format: with one it cost more than all the rest of a plain request.
#include "proxy/access_line.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "api/json_edit.h"
#include "proxy/request.h"

namespace llmproxy {
namespace {

// Writes at the end of a line; what it has written belongs to it at the end of the writer's life.
class Writer {
 public:
  explicit Writer(AccessLine& line) : line_(line), size_(line.size()) {
    line_.resize(line_.capacity());
  }
  ~Writer() { line_.resize(size_); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // Names and literals; of those the compiler knows the size.
  Writer& operator<<(std::string_view text) {
    if (line_.size() - size_ < text.size()) line_.resize(2 * (size_ + text.size()));
    std::memcpy(line_.data() + size_, text.data(), text.size());
    size_ += text.size();
    return *this;
  }

 private:
  AccessLine& line_;
  size_t size_;
};

struct Number {
  int64_t value;
};
Writer& operator<<(Writer& out, Number number) {
  const fmt::format_int digits(number.value);
  return out << std::string_view(digits.data(), digits.size());
}

// Milliseconds with one decimal.
Writer& operator<<(Writer& out, MonotonicTime::duration time) {
  constexpr std::chrono::microseconds kTenth{100};
  const int64_t tenths = std::max<int64_t>((time + kTenth / 2) / kTenth, 0);
  const char decimal[] = {'.', static_cast<char>('0' + tenths % 10)};
  return out << Number{tenths / 10} << std::string_view(decimal, sizeof decimal);
}

constexpr std::array<bool, 256> make_plain() {
  std::array<bool, 256> is_plain{};
  for (size_t c = '!'; c <= '~'; ++c) is_plain[c] = c != '"' && c != '=' && c != '\\';
  return is_plain;
}
constexpr std::array<bool, 256> kIsPlain = make_plain();

// In quotes where it would not stand as one word.
struct Word {
  std::string_view value;
};
Writer& operator<<(Writer& out, Word word) {
  const bool is_plain = !word.value.empty() && std::ranges::all_of(word.value, [](unsigned char c) {
    return kIsPlain[c];
  });
  return is_plain ? out << word.value : out << quote_json(word.value);
}

// Also a model that nobody serves, so that an operator sees what was asked for; but only where it
// looks like a model's name: whatever else a client puts there stays out of the log.
Word model_of(const Request& request) {
  constexpr size_t kNameMax = 64;
  constexpr std::string_view kNameCharacters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:/@+";
  if (request.backend != nullptr) return {request.backend->name};
  const std::string& name = request.call.model;
  const bool is_name = !name.empty() && name.size() <= kNameMax &&
                       name.find_first_not_of(kNameCharacters) == std::string::npos;
  return {is_name ? std::string_view(name) : "-"};
}

void add_figure(Writer& out, const Request& request) {
  if (!request.is_settled || request.outcome.kind != Outcome::Kind::kBilled) {
    out << " prompt_n=- completion_n=-";
    return;
  }
  out << " prompt_n=" << Number{request.outcome.figure.prompt_n};
  out << " completion_n=" << Number{request.outcome.figure.completion_n};
}

}  // namespace

void append_access_line(AccessLine& line, const Request& request) {
  const MonotonicTime now = monotonic_now();
  const Key* const key = request.key.get();
  const Backend* const backend = request.backend;
  Writer out(line);
  out << "request id=" << request.id_hex();
  out << " path=" << (request.endpoint != nullptr ? request.endpoint->path : "-");
  out << " key=" << Word{key != nullptr ? std::string_view(key->id) : "-"};
  out << " user=" << Word{key != nullptr ? std::string_view(key->user_id.text) : "-"};
  out << " model=" << model_of(request);
  out << " status=" << Number{request.status};
  out << " bytes=" << Number{static_cast<int64_t>(request.bytes_to_client)};
  out << " backend=" << (backend != nullptr ? std::string_view(backend->authority) : "-");
  out << " first_byte_ms=" << request.first_byte.value_or(now) - request.started;
  out << " duration_ms=" << now - request.started;
  add_figure(out, request);
  out << " end=" << request.ended;
  if (request.is_settled) out << " bill=\"" << request.outcome.reason << "\"";
  if (!request.detail.empty()) out << " detail=" << quote_json(request.detail);
}

}  // namespace llmproxy
