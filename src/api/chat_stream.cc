// What a chunk of a streamed chat completion says of its cost, and how it looks to a client that
// did not ask for usage. Most events cannot matter and are only searched, never parsed: a key
// `"usage"`,
// `"finish_reason"` or `"error"` with a value that says something must stand in them as bytes (a
// key written with escapes is not seen; no server writes one). Quotes inside content are escaped,
// so content cannot look like a key; what only looks like one deeper in the chunk is parsed and
// ignored.
#include "api/chat_stream.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "api/choice_tally.h"
#include "api/event_stream.h"
#include "api/json.h"
#include "api/json_edit.h"
#include "base/lanes.h"

namespace llmproxy {

namespace {

using simdjson::dom::element;
using Kind = StreamReader::Piece::Kind;

constexpr std::string_view kUsageKey = "\"usage\"";
constexpr std::string_view kFinishKey = "\"finish_reason\"";
constexpr std::string_view kErrorKey = "\"error\"";

// What goes to the client of the usage that the backend reports.
enum class Edit : uint8_t {
  kNone,         // all of it
  kRemove,       // nothing: the proxy asked for it, the client did not
  kNullRunning,  // only the last one: the client did not ask for running figures
};

Edit edit_for(const Call& call, UsagePolicy policy) {
  if (!call.is_stream || policy == UsagePolicy::kAsIs) return Edit::kNone;
  if (!call.asks_usage) return Edit::kRemove;
  if (policy == UsagePolicy::kContinuous && !call.asks_continuous) return Edit::kNullRunning;
  return Edit::kNone;
}

// What follows the colon after a key, or nothing where there is no colon.
std::string_view value_after(std::string_view text, size_t key_end) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t colon = text.find_first_not_of(kBlanks, key_end);
  if (colon == std::string_view::npos || text[colon] != ':') return {};
  const size_t value = text.find_first_not_of(kBlanks, colon + 1);
  return value == std::string_view::npos ? std::string_view() : text.substr(value);
}

bool says_something(std::string_view value) {
  return !value.empty() && !value.starts_with("null") && !value.starts_with("\"\"");
}

// Where a key `"u...`, `"f...` or `"e...` begins from `at` on; kLanes + 1 bytes can be read there.
// One pass for all three keys instead of three.
auto find_keys(const char* at) {
  const Lanes here = load_lanes(at), next = load_lanes(at + 1);
  return (here == '"') & ((next == 'u') | (next == 'f') | (next == 'e'));
}

enum class Content : uint8_t {
  kPlain,      // nothing in it matters
  kNullUsage,  // only a key `"usage"` that says nothing
  kTelling,    // must be parsed
};

// What the key at `at` of `text` is, if it is one of the three.
Content inspect_key(std::string_view text, size_t at) {
  const std::string_view rest = text.substr(at);
  if (rest.size() < 2) return Content::kPlain;
  const std::string_view key = rest[1] == 'u' ? kUsageKey : rest[1] == 'f' ? kFinishKey : kErrorKey;
  if (!rest.starts_with(key)) return Content::kPlain;
  if (says_something(value_after(text, at + key.size()))) return Content::kTelling;
  return key == kUsageKey ? Content::kNullUsage : Content::kPlain;
}

Content inspect(std::string_view text) {
  Content content = Content::kPlain;
  const auto is_telling = [&](size_t at) {
    const Content key = inspect_key(text, at);
    if (key != Content::kPlain) content = key;
    return key == Content::kTelling;
  };
  const auto has_telling = [&](LaneWords keys, size_t begin) {
    for (uint64_t word : keys) {
      while (word != 0) {
        if (is_telling(begin + take_lane(word))) return true;
      }
      begin += kWordLanes;
    }
    return false;
  };
  constexpr size_t kStep = 2 * kLanes;
  size_t at = 0;
  while (text.size() > kStep && at + 1 < text.size()) {  // the last byte begins no key
    at = std::min(at, text.size() - kStep - 1);          // the last step sees some bytes again
    const LaneWords first = words_of(find_keys(text.data() + at));
    const LaneWords second = words_of(find_keys(text.data() + at + kLanes));
    const bool has_any = (first[0] | first[1] | second[0] | second[1]) != 0;  // hardly ever
    if (has_any && (has_telling(first, at) || has_telling(second, at + kLanes))) return content;
    at += kStep;
  }
  for (; at < text.size(); ++at) {
    if (text[at] == '"' && is_telling(at)) return content;
  }
  return content;
}

bool has_usage_value(std::string_view text) {
  for (size_t at = text.find(kUsageKey); at != std::string_view::npos;
       at = text.find(kUsageKey, at + 1)) {
    if (says_something(value_after(text, at + kUsageKey.size()))) return true;
  }
  return false;
}

bool is_done(std::string_view data) {
  const size_t begin = data.find_first_not_of(' ');
  return begin != std::string_view::npos && data.substr(begin).starts_with("[DONE]");
}

// The members of a chunk that is made for usage alone. `timings` (llama.cpp) moves there from the
// last chunk with choices when usage is asked for.
bool is_standard_member(std::string_view key) {
  constexpr std::array<std::string_view, 10> kStandard = {
      "id",           "object",      "created", "model",   "system_fingerprint",
      "service_tier", "obfuscation", "choices", "timings", "usage"};
  for (const std::string_view name : kStandard) {
    if (key == name) return true;
  }
  return false;
}

struct Choice {
  int64_t index = -1;
  bool is_finished = false;

  void see(std::string_view key, element value) {
    if (key == "index") {
      index = read_count(value).value_or(-1);
    } else if (key == "finish_reason") {
      std::string_view reason;  // some servers say "" for "not yet"
      is_finished = value.get(reason) == simdjson::SUCCESS && !reason.empty();
    }
  }
};

enum class Usage : uint8_t { kNone, kObject, kOther };  // kNone: null, too

struct Chunk {
  size_t members = 0;
  int usages = 0;                  // members of that name
  size_t usage_index = 0;          // of the last one among all members
  Usage usage = Usage::kNone;      // the last that is not null
  std::optional<Figure> figure;    // which it may be
  std::optional<int64_t> choices;  // how many; nothing where there is no array of them
  bool is_error = false;
  bool has_foreign = false;      // a member with a value that no usage chunk has of itself
  bool is_finishing = false;     // some choice has a finish reason
  int64_t finishing_index = -1;  // of the chunk's one choice, if that is it

  void count_member(std::string_view key, bool is_null) {
    if (key == "usage") {
      ++usages;
      usage_index = members;
    }
    if (!is_null && !is_standard_member(key)) has_foreign = true;
    ++members;
  }
  bool is_end() const { return choices == 0; }  // with an empty array of choices
  void see_usage(element value) {
    if (value.is_null()) return;
    usage = value.is_object() ? Usage::kObject : Usage::kOther;
    figure = read_figure(value, "prompt_tokens", "completion_tokens");
  }
  void see_choice(const Choice& choice) {
    is_finishing = is_finishing || choice.is_finished;
    finishing_index = ++*choices == 1 && choice.is_finished ? choice.index : -1;
  }
};

// Appends `raw` with the bytes [offset, offset + remove) of its data replaced. Data in several
// lines keeps its lines: what is removed may leave empty ones, which are blanks to JSON.
void append_edited(std::string_view raw, const Splice& splice, std::string& out) {
  const size_t splice_end = splice.offset + splice.remove;
  size_t offset = 0;  // of the line's value in the event's data
  bool is_inserted = false;
  if (raw.starts_with(kByteOrderMark)) {
    out.append(kByteOrderMark);
    raw.remove_prefix(kByteOrderMark.size());
  }
  while (!raw.empty()) {
    const std::string_view before = raw;
    const std::string_view line = take_sse_line(raw);
    const std::string_view whole = before.substr(0, before.size() - raw.size());
    const std::optional<std::string_view> data = sse_data(line);
    if (!data || offset + data->size() < splice.offset || offset >= splice_end) {
      out.append(whole);
      if (data) offset += data->size() + 1;
      continue;
    }
    const size_t from = splice.offset > offset ? splice.offset - offset : 0;
    const size_t to = std::min(splice_end - offset, data->size());
    const size_t value = static_cast<size_t>(data->data() - whole.data());
    out.append(whole.substr(0, value + from));
    if (!is_inserted) out.append(splice.insert);
    is_inserted = true;
    out.append(whole.substr(value + to));
    offset += data->size() + 1;
  }
}

// Drops a chunk. Comments in its event are none of it: they stay, with the empty line.
Kind drop(std::string_view raw, std::string& text) {
  bool has_comment = false;
  while (!raw.empty()) {
    const std::string_view before = raw;
    const std::string_view line = take_sse_line(raw);
    has_comment = has_comment || line.starts_with(':');
    const bool is_kept = line.starts_with(':') || (line.empty() && has_comment);
    if (is_kept) text.append(before.substr(0, before.size() - raw.size()));
  }
  return has_comment ? Kind::kReplace : Kind::kDrop;
}

std::vector<Member>& thread_members() {
  thread_local std::vector<Member> members;
  return members;
}

class ChatStream final : public EventStream {
 public:
  ChatStream(const Call& call, UsagePolicy policy) : edit_(edit_for(call, policy)) {
    if (call.choices > 1) tally_.emplace(call.choices);
  }

 private:
  Kind read_event(std::string_view raw, bool is_whole, std::string& text) override;
  bool is_complete(std::string_view raw) override;
  void note_skipped() override { spoil(); }

  Kind read_data(std::string_view raw, std::string_view data, bool is_whole, std::string& text);
  static Kind remove_null_usage(std::string_view raw, std::string_view data, std::string& text);
  bool read_strictly(std::string_view data, Chunk& chunk);
  bool read_by_structure(std::string_view data, Chunk& chunk);
  void see_choices(element value, Chunk& chunk);
  void see_choices_by_structure(std::string_view text, Chunk& chunk);
  void see_choice(const Choice& choice, Chunk& chunk);
  void take_facts(const Chunk& chunk);
  void take_figure(const Chunk& chunk);
  bool is_running(const Chunk& chunk) const;
  Kind edit(const Chunk& chunk, std::string_view raw, std::string_view data,
            std::string& text) const;
  void spoil() {
    if (tally_) tally_->spoil();
  }

  const Edit edit_;
  bool is_finished_ = false;          // a finish reason has come
  std::optional<ChoiceTally> tally_;  // several choices only
};

Kind ChatStream::read_event(std::string_view raw, bool is_whole, std::string& text) {
  Content content = tally_ ? Content::kTelling : inspect(raw);
  // The common event: one data line, nothing of interest in it.
  constexpr std::string_view kData = "data:";
  const bool is_one_line = is_whole && lines() == 1 && raw.starts_with(kData);
  if (content == Content::kPlain && is_one_line && !is_done(raw.substr(kData.size()))) {
    ++facts_.data_events;
    learn(raw);
    return Kind::kPass;
  }
  thread_local std::string scratch;
  const SseEvent event = parse_sse_event(raw, scratch);
  if (event.type == "error") facts_.saw_error = true;
  if (!event.has_data) {
    facts_.saw_other_bytes |= event.has_other;
    return Kind::kPass;
  }
  ++facts_.data_events;
  if (is_done(event.data)) {
    facts_.saw_terminal = true;
    return Kind::kTerminal;
  }
  const bool is_joined = event.data.data() == scratch.data();  // a key and its colon may have met
  if (is_joined && !tally_) content = inspect(event.data);
  if (content == Content::kTelling) return read_data(raw, event.data, is_whole, text);
  if (content == Content::kPlain || edit_ != Edit::kRemove) return Kind::kPass;
  return remove_null_usage(raw, event.data, text);
}

bool ChatStream::is_complete(std::string_view raw) {
  std::string scratch;
  const SseEvent event = parse_sse_event(raw, scratch);
  if (event.has_other) return false;
  if (!event.has_data || is_done(event.data)) return true;
  std::vector<Member>& members = thread_members();
  return JsonText(event.data).ok() || object_members(event.data, members);
}

// OpenAI's chunks all have `"usage":null` when usage was asked for: not worth a parse.
Kind ChatStream::remove_null_usage(std::string_view raw, std::string_view data, std::string& text) {
  std::vector<Member>& members = thread_members();
  object_members(data, members);
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].key != "usage" || members[i].value != "null") continue;
    append_edited(raw, remove_member(data, members, i), text);
    return Kind::kReplace;
  }
  return Kind::kPass;
}

Kind ChatStream::read_data(std::string_view raw, std::string_view data, bool is_whole,
                           std::string& text) {
  Chunk chunk;
  if (read_strictly(data, chunk) || read_by_structure(data, chunk)) {
    take_facts(chunk);
    return edit(chunk, raw, data, text);
  }
  // Text that is no JSON passes. What should have been an object with usage is a figure not
  // understood; the front of an event that the end of the body has cut is not.
  const size_t begin = data.find_first_not_of(" \t\r\n");
  if (is_whole && begin != std::string_view::npos && data[begin] == '{' && has_usage_value(data)) {
    facts_.is_malformed = true;
    spoil();
  }
  return Kind::kPass;
}

bool ChatStream::read_strictly(std::string_view data, Chunk& chunk) {
  const JsonText json(data);
  simdjson::dom::object object;
  if (!json.ok() || json.root().get(object) != simdjson::SUCCESS) return false;
  for (const auto [key, value] : object) {
    chunk.count_member(key, value.is_null());
    if (key == "usage") {
      chunk.see_usage(value);
    } else if (key == "choices") {
      see_choices(value, chunk);
    } else if (key == "error") {
      chunk.is_error = chunk.is_error || is_truthy(value);
    }
  }
  return true;
}

// Python servers write NaN; others cut a character in two. What else a chunk holds must not cost
// its usage, nor bring it to a client that did not ask: what matters is found by structure and read
// alone.
bool ChatStream::read_by_structure(std::string_view data, Chunk& chunk) {
  std::vector<Member> members;
  if (!object_members(data, members)) return false;
  for (const Member& member : members) {
    chunk.count_member(member.key, member.value == "null");
    if (member.key == "choices") see_choices_by_structure(member.value, chunk);
    if (member.key != "usage" && member.key != "error") continue;
    const JsonText json(member.value);
    if (member.key == "error") {
      chunk.is_error = chunk.is_error || !json.ok() || is_truthy(json.root());
    } else if (json.ok()) {
      chunk.see_usage(json.root());
    } else {
      chunk.usage = Usage::kObject;
      chunk.figure.reset();
    }
  }
  return true;
}

void ChatStream::see_choices(element value, Chunk& chunk) {
  simdjson::dom::array choices;
  if (value.get(choices) != simdjson::SUCCESS) return;
  chunk.choices = 0;
  for (const element each : choices) {
    Choice choice;
    simdjson::dom::object object;
    if (each.get(object) == simdjson::SUCCESS) {
      for (const auto [key, member] : object) choice.see(key, member);
    }
    see_choice(choice, chunk);
  }
}

void ChatStream::see_choices_by_structure(std::string_view text, Chunk& chunk) {
  if (!text.starts_with('[')) return;
  chunk.choices = 0;
  for (const std::string_view value : array_values(text)) {
    Choice choice;
    for (const Member& member : object_members(value)) {
      if (member.key != "index" && member.key != "finish_reason") continue;
      const JsonText json(member.value);
      if (json.ok()) choice.see(member.key, json.root());
    }
    see_choice(choice, chunk);
  }
}

void ChatStream::see_choice(const Choice& choice, Chunk& chunk) {
  chunk.see_choice(choice);
  if (tally_) tally_->see(choice.index, choice.is_finished);
}

void ChatStream::take_facts(const Chunk& chunk) {
  if (chunk.is_error) facts_.saw_error = true;
  is_finished_ = is_finished_ || chunk.is_finishing;
  if (chunk.usage != Usage::kNone) take_figure(chunk);
  if (!tally_) return;
  const ChoiceTally::Total total = tally_->total(facts_.saw_error);
  facts_.final_figure = total.figure;
  if (total.is_malformed) facts_.is_malformed = true;
}

void ChatStream::take_figure(const Chunk& chunk) {
  // SGLang ends a failed answer with zeros that mean nothing. They make a good figure before them
  // doubtful as any malformed one does.
  const bool is_void = chunk.figure == Figure{} && facts_.saw_error;
  facts_.is_malformed = !chunk.figure || is_void || chunk.usages > 1;
  if (facts_.is_malformed) {
    spoil();
    return;
  }
  if (!tally_) {
    (is_running(chunk) ? facts_.running_figure : facts_.final_figure) = chunk.figure;
  } else if (chunk.is_end()) {
    tally_->add_end_figure(*chunk.figure);
  } else if (chunk.is_finishing) {
    tally_->add_finish_figure(*chunk.figure, chunk.finishing_index);
  } else {
    facts_.running_figure = chunk.figure;
    tally_->add_running_figure();
  }
}

// Whether the chunk's figure stands where none can be final.
bool ChatStream::is_running(const Chunk& chunk) const {
  if (chunk.is_end()) return false;
  if (!tally_) return !is_finished_;
  return !chunk.is_finishing || tally_->has_running_figure();
}

Kind ChatStream::edit(const Chunk& chunk, std::string_view raw, std::string_view data,
                      std::string& text) const {
  if (edit_ == Edit::kNone || chunk.usages == 0) return Kind::kPass;
  const bool has_object = chunk.usage == Usage::kObject;
  const bool has_choices = chunk.choices.value_or(0) > 0;
  std::vector<Member>& members = thread_members();
  if (edit_ == Edit::kNullRunning) {
    // The figure beside the finish reason may be the only one (DeepSeek, Mistral, Gemini), so it
    // stays, though vLLM repeats it in a chunk made for it: of several, clients take the last.
    if (!has_object || !has_choices || !is_running(chunk)) return Kind::kPass;
    object_members(data, members);
    const std::string_view value = members.at(chunk.usage_index).value;
    const Splice splice{.offset = static_cast<size_t>(value.data() - data.data()),
                        .remove = value.size(),
                        .insert = "null"};
    append_edited(raw, splice, text);
    return Kind::kReplace;
  }
  if (chunk.usage == Usage::kOther) return Kind::kPass;
  if (has_object && !has_choices && !chunk.has_foreign) return drop(raw, text);
  object_members(data, members);  // of a doubled usage, malformed anyway, only the last goes
  append_edited(raw, remove_member(data, members, chunk.usage_index), text);
  return Kind::kReplace;
}

}  // namespace

std::unique_ptr<StreamReader> read_chat_stream(const Call& call, UsagePolicy policy) {
  return std::make_unique<ChatStream>(call, policy);
}

}  // namespace llmproxy
