// Where two events part, between the quotes around it, is their text.
#include "api/event_pattern.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/lanes.h"

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

// Up to the quote that closes it, or to what cannot stand in it.
size_t text_length(std::string_view bytes) {
  const auto is_end = [](auto c) { return (c == '"') | (c == '\n') | (c == '\r'); };
  size_t length = 0;
  for (; bytes.size() - length >= kLanes; length += kLanes) {
    const LaneWords ends = words_of(is_end(load_lanes(bytes.data() + length)));
    if (ends[0] != 0) return length + first_lane(ends[0]);
    if (ends[1] != 0) return length + kWordLanes + first_lane(ends[1]);
  }
  while (length < bytes.size() && !is_end(bytes[length])) ++length;
  return length;
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

EventPattern::Run EventPattern::match(std::string_view bytes) {
  Run run;
  if (front_ == 0) return run;
  const char* const front = event_.data();
  const char* const back = front + event_.size() - back_;
  while (bytes.size() >= front_ + back_ && std::memcmp(bytes.data(), front, front_) == 0) {
    const size_t text = text_length(bytes.substr(front_, kTextBytesMax));
    const size_t event = front_ + text + back_;
    if (bytes.size() < event) break;
    if (std::memcmp(bytes.data() + front_ + text, back, back_) != 0) break;
    run.bytes += event;
    ++run.events;
    bytes.remove_prefix(event);
  }
  if (run.events > 0) failures_ = 0;
  return run;
}

}  // namespace llmproxy
