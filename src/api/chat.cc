// POST /v1/chat/completions: what a request's body decides, how it is made to report usage, and the
// usage of a plain reply. Streams: chat_stream.
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <span>

#include "api/call.h"
#include "api/chat_stream.h"
#include "api/endpoint.h"
#include "api/json.h"
#include "api/json_edit.h"

namespace llmproxy {

namespace {

using simdjson::dom::element;
using simdjson::dom::object;

constexpr int64_t kChoicesMax = 1'000'000;

constexpr std::string_view kOptions = "stream_options";
constexpr std::string_view kOptionsKey = "\"stream_options\"";
constexpr std::string_view kIncludeUsage = "include_usage";
constexpr std::string_view kContinuousUsage = "continuous_usage_stats";

// Members that decide routing or billing; each at most once and spelled as here.
constexpr std::array<std::string_view, 6> kDecisive = {"model", "stream",  kOptions,
                                                       "n",     "best_of", "use_beam_search"};
constexpr std::array<std::string_view, 2> kDecisiveOptions = {kIncludeUsage, kContinuousUsage};

std::string quoted(std::string_view name) {
  return "'" + std::string(name) + "'";
}

// True, false or null (false); nothing for any other value.
std::optional<bool> read_switch(element value) {
  if (value.is_null()) return false;
  if (value.is_bool()) return bool(value);
  return std::nullopt;
}

std::optional<Error> read_options(element value, std::string_view body, Call& call) {
  if (value.is_null()) return std::nullopt;
  object options;
  if (value.get(options) != simdjson::SUCCESS) {
    return bad_call("'stream_options' must be an object or null.", std::string(kOptions));
  }
  std::string_view text;
  if (has_escaped_letters(body)) {
    for (const Member& member : object_members(body)) {
      if (member.key == kOptions) text = member.value;
    }
  }
  if (auto error = check_spelling(options, text, kDecisiveOptions)) return error;
  for (const auto [key, option] : options) {
    const bool is_usage = key == kIncludeUsage;
    if (!is_usage && key != kContinuousUsage) continue;
    const std::optional<bool> on = read_switch(option);
    if (!on) {
      return bad_call("'stream_options." + std::string(key) + "' must be true, false or null.",
                      std::string(kOptions));
    }
    (is_usage ? call.asks_usage : call.asks_continuous) = *on;
  }
  return std::nullopt;
}

std::optional<Error> read_choices(std::string_view key, element value, Call& call) {
  if (value.is_null()) return std::nullopt;
  int64_t choices = 0;
  if (value.get(choices) != simdjson::SUCCESS || choices < 1 || choices > kChoicesMax) {
    return bad_call(quoted(key) + " must be a whole number from 1 to 1000000, or null.",
                    std::string(key));
  }
  call.choices = std::max(call.choices, choices);
  return std::nullopt;
}

std::optional<Error> read_member(std::string_view key, element value, std::string_view body,
                                 Call& call) {
  if (key == "model") {
    std::string_view model;
    if (value.get(model) != simdjson::SUCCESS || model.empty()) {
      return bad_call("'model' must be a non-empty string.", "model");
    }
    call.model = model;
  } else if (key == "stream") {
    const std::optional<bool> on = read_switch(value);
    if (!on) return bad_call("'stream' must be true, false or null.", "stream");
    call.is_stream = *on;
  } else if (key == kOptions) {
    return read_options(value, body, call);
  } else if (key == "n" || key == "best_of") {
    return read_choices(key, value, call);
  }
  return std::nullopt;
}

Result<Call> read_chat_call(std::string_view body) {
  const JsonText json(body);
  if (!json.ok()) return bad_json(json);
  object members;
  if (json.root().get(members) != simdjson::SUCCESS) {
    return bad_call("The request body must be a JSON object.");
  }
  if (auto error = check_spelling(members, body, kDecisive)) return *std::move(error);
  Call call;
  for (const auto [key, value] : members) {
    if (auto error = read_member(key, value, body, call)) return *std::move(error);
  }
  if (call.model.empty()) return bad_call("The member 'model' is missing.", "model");
  return call;
}

// The splices that make `name` true in the object `options`, whose text begins at `offset` of the
// body.
void switch_on(std::string_view options, size_t offset, std::span<const std::string_view> names,
               std::vector<Splice>& splices) {
  const std::vector<Member> members = object_members(options);
  std::optional<Splice> added;
  for (const std::string_view name : names) {
    const auto same = [&](const Member& member) { return member.key == name; };
    const auto member = std::find_if(members.begin(), members.end(), same);
    if (member == members.end() && added) {
      added->insert += ',' + quote_json(name) + ":true";
    } else if (member == members.end()) {
      added = add_member(options, members, name, "true");
    } else if (member->value != "true") {
      const auto at = static_cast<size_t>(member->value.data() - options.data());
      splices.push_back({.offset = offset + at, .remove = member->value.size(), .insert = "true"});
    }
  }
  if (added) {
    added->offset += offset;
    splices.push_back(*std::move(added));
  }
  std::sort(splices.begin(), splices.end(),
            [](const Splice& a, const Splice& b) { return a.offset < b.offset; });
}

std::vector<Splice> edit_chat_call(std::string_view body, const Call& call, UsagePolicy policy) {
  if (!call.is_stream || policy == UsagePolicy::kAsIs) return {};
  const bool wants_continuous = policy == UsagePolicy::kContinuous;
  if (call.asks_usage && (call.asks_continuous || !wants_continuous)) return {};

  const std::span<const std::string_view> names(kDecisiveOptions.data(), wants_continuous ? 2 : 1);
  std::string options = "{\"include_usage\":true";
  options += wants_continuous ? ",\"continuous_usage_stats\":true}" : "}";

  std::vector<Splice> splices;
  // A search for the bytes spares most bodies a walk through all their members.
  if (memmem(body.data(), body.size(), kOptionsKey.data(), kOptionsKey.size()) == nullptr) {
    const size_t brace = body.rfind('}');  // never empty: it has a model
    splices.push_back({.offset = brace, .insert = ",\"stream_options\":" + options});
    return splices;
  }
  const std::vector<Member> members = object_members(body);
  for (const Member& member : members) {
    if (member.key != kOptions) continue;
    const auto offset = static_cast<size_t>(member.value.data() - body.data());
    if (member.value == "null") {
      splices.push_back({.offset = offset, .remove = member.value.size(), .insert = options});
    } else {
      switch_on(member.value, offset, names, splices);
    }
    return splices;
  }
  splices.push_back(add_member(body, members, kOptions, options));  // the bytes stood elsewhere
  return splices;
}

// What a plain reply's top-level members say.
class ReplyReader {
 public:
  void see(std::string_view key, element value) {
    if (key == "error") facts_.saw_error = facts_.saw_error || is_truthy(value);
    if (key != "usage") return;
    ++usages_;
    if (value.is_null()) return;
    facts_.final_figure = read_figure(value, "prompt_tokens", "completion_tokens");
    facts_.is_malformed = !facts_.final_figure;
  }
  void see_unreadable(std::string_view key) {
    (key == "error" ? facts_.saw_error : facts_.is_malformed) = true;
    if (key == "usage") ++usages_;
  }
  ReplyFacts facts() {
    // Beside an error zeros mean nothing: the server did not count.
    const bool is_void = facts_.saw_error && facts_.final_figure == Figure{};
    if (usages_ > 1 || is_void) facts_.is_malformed = true;
    if (facts_.is_malformed) facts_.final_figure.reset();
    return facts_;
  }

 private:
  ReplyFacts facts_;
  int usages_ = 0;
};

bool read_strictly(std::string_view body, ReplyReader& reader) {
  const JsonText json(body);
  if (!json.ok()) return false;
  object members;
  if (json.root().get(members) != simdjson::SUCCESS) return true;
  for (const auto [key, value] : members) reader.see(key, value);
  return true;
}

// Python servers write NaN; others cut a character in two. What else a reply holds must not cost
// its usage: that is found by structure and read alone.
void read_by_structure(std::string_view body, ReplyReader& reader) {
  std::vector<Member> members;
  if (!object_members(body, members)) return;
  for (const Member& member : members) {
    if (member.key != "usage" && member.key != "error") continue;
    const JsonText json(member.value);
    if (json.ok()) {
      reader.see(member.key, json.root());
    } else {
      reader.see_unreadable(member.key);
    }
  }
}

ReplyFacts read_chat_reply(std::string_view body, const Call& /*call*/) {
  ReplyReader reader;
  if (!read_strictly(body, reader)) read_by_structure(body, reader);
  return reader.facts();
}

}  // namespace

constinit const Endpoint kChatCompletions = {
    .method = "POST",
    .path = "/v1/chat/completions",
    .read_call = read_chat_call,
    .edit_call = edit_chat_call,
    .read_stream = read_chat_stream,
    .read_reply = read_chat_reply,
};

}  // namespace llmproxy
