// Where two events part, between the quotes around it, is their text.
#include "api/event_pattern.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace llmproxy {

namespace {

constexpr std::string_view kOpening = "data: {";
constexpr std::string_view kEnding = "\n\n";

// Members that hold a piece of the answer, and never what a reader of streams looks for.
constexpr std::array<std::string_view, 5> kTextNames = {
    "\"content\":\"", "\"reasoning_content\":\"", "\"reasoning\":\"", "\"text\":\"",
    "\"arguments\":\""};

bool opens_text(std::string_view front) {
  return std::ranges::any_of(kTextNames,
                             [&](std::string_view name) { return front.ends_with(name); });
}

// From a closing quote on: a string that a colon follows would be a name.
bool closes_text(std::string_view back) {
  return back.size() > 1 && (back[1] == '}' || back[1] == ',');
}

}  // namespace

void EventPattern::learn(std::string_view event) {
  front_ = back_ = 0;
  if (failures_ == kFailuresMax) return;
  ++failures_;  // until one matches
  const auto parting = std::ranges::mismatch(event, event_).in1;
  const auto same = static_cast<size_t>(parting - event.begin());
  const size_t open = event.substr(0, same).rfind('"');
  const size_t close = event.find('"', same);
  const bool has_text = open != std::string_view::npos && close != std::string_view::npos &&
                        event.starts_with(kOpening) && event.ends_with(kEnding) &&
                        opens_text(event.substr(0, open + 1)) && closes_text(event.substr(close));
  event_.assign(event.size() <= kEventBytesMax ? event : std::string_view());
  if (!has_text || event_.empty()) return;
  front_ = open + 1;
  back_ = event.size() - close;
}

size_t EventPattern::match(std::string_view bytes) {
  if (front_ == 0 || bytes.size() < front_ + back_) return 0;
  if (std::memcmp(bytes.data(), event_.data(), front_) != 0) return 0;
  const std::string_view rest = bytes.substr(front_);
  const size_t text = rest.substr(0, kTextBytesMax).find('"');
  if (text == std::string_view::npos || rest.size() - text < back_) return 0;
  const char* const back = event_.data() + event_.size() - back_;
  if (std::memcmp(rest.data() + text, back, back_) != 0) return 0;
  const auto has = [&](char c) { return std::memchr(rest.data(), c, text) != nullptr; };
  if (has('\n') || has('\r')) return 0;
  failures_ = 0;
  return front_ + text + back_;
}

}  // namespace llmproxy
