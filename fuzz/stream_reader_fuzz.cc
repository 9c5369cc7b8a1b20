// Any stream under any call and policy, cut anywhere: the client's bytes and the facts are the
// same, bytes are untouched when nothing was asked beyond the client's wish, figures stay in their
// range, and a member that is no strict JSON changes nothing.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/stream_trial.h"

namespace {

using namespace llmproxy;  // NOLINT: a program of one file

void check_same_facts(const StreamTrial& a, const StreamTrial& b) {
  LLMPROXY_CHECK(a.facts.final_figure == b.facts.final_figure);
  LLMPROXY_CHECK(a.facts.running_figure == b.facts.running_figure);
  LLMPROXY_CHECK(a.facts.is_malformed == b.facts.is_malformed);
  LLMPROXY_CHECK(a.facts.data_events == b.facts.data_events);
  LLMPROXY_CHECK(a.facts.saw_other_bytes == b.facts.saw_other_bytes);
  LLMPROXY_CHECK(a.facts.saw_error == b.facts.saw_error);
  LLMPROXY_CHECK(a.facts.saw_terminal == b.facts.saw_terminal);
}

void check_same(const StreamTrial& a, const StreamTrial& b) {
  LLMPROXY_CHECK(a.client == b.client);
  LLMPROXY_CHECK(a.held == b.held);
  check_same_facts(a, b);
}

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

void check_range(const std::optional<Figure>& figure) {
  if (!figure) return;
  LLMPROXY_CHECK(figure->prompt_n >= 0 && figure->prompt_n <= kCountMax);
  LLMPROXY_CHECK(figure->completion_n >= 0 && figure->completion_n <= kCountMax);
}

}  // namespace

// Each object of the stream with one member more, strict JSON and not. A key written with escapes
// is not seen in the latter.
template <class Run>
void check_beside_nan(std::string_view bytes, Run run) {
  if (bytes.find("\\u") != std::string_view::npos) return;
  constexpr std::string_view kObject = "data: {";
  const std::string stream(bytes);
  const StreamTrial strict = run(replace_all(stream, kObject, R"(data: {"odd":123,)"));
  const StreamTrial odd = run(replace_all(stream, kObject, R"(data: {"odd":NaN,)"));
  check_same_facts(strict, odd);
  LLMPROXY_CHECK(strict.client.size() == odd.client.size());
}

// Byte 0: how the call was made. Byte 1: the width of the cuts. The rest: the stream.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  Call call;
  call.model = "m";
  call.is_stream = (data[0] & 1) == 0;
  call.asks_usage = (data[0] & 2) != 0;
  call.asks_continuous = (data[0] & 4) != 0;
  call.choices = 1 + ((data[0] >> 3) & 3);
  const auto policy = static_cast<UsagePolicy>((data[0] >> 5) % 3);
  const auto reader = [&] { return kChatCompletions.read_stream(call, policy); };
  const auto run = [&](const std::vector<size_t>& cuts) {
    return try_stream(*reader(), bytes, cuts);
  };

  const StreamTrial whole = run({});
  check_range(whole.facts.final_figure);
  check_range(whole.facts.running_figure);
  check_same(run(every_offset(bytes.size())), whole);
  std::vector<size_t> cuts;
  for (size_t at = size_t{2} + data[1]; at < bytes.size(); at += size_t{2} + data[1])
    cuts.push_back(at);
  check_same(run(cuts), whole);
  check_beside_nan(bytes,
                   [&](std::string_view stream) { return try_stream(*reader(), stream, {}); });

  const bool has_all = call.asks_usage && (call.asks_continuous || policy == UsagePolicy::kAsk);
  if (!call.is_stream || policy == UsagePolicy::kAsIs || has_all)
    LLMPROXY_CHECK(whole.client == bytes);
  return 0;
}
