// Any request body: what read_call takes stays readable after the edits, says the same but for the
// usage it asks for, and differs from the body in stream_options alone.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/endpoint.h"
#include "api/json.h"
#include "api/splice_trial.h"
#include "base/check.h"

namespace {

using namespace llmproxy;  // NOLINT: a program of one file

constexpr std::string_view kOptions = "stream_options";

// All members but stream_options, re-serialised; then those of stream_options but the two switches.
std::string rest_of(std::string_view body) {
  const JsonText json(body);
  simdjson::dom::object object;
  LLMPROXY_CHECK(json.ok() && json.root().get(object) == simdjson::SUCCESS);
  std::string rest;
  for (const auto [key, value] : object) {
    simdjson::dom::object options;
    if (key != kOptions) {
      rest.append(key).append("=").append(simdjson::minify(value)).append(";");
    } else if (value.get(options) == simdjson::SUCCESS) {
      for (const auto [name, option] : options) {
        if (name == "include_usage" || name == "continuous_usage_stats") continue;
        rest.append("option ")
            .append(name)
            .append("=")
            .append(simdjson::minify(option))
            .append(";");
      }
    }
  }
  return rest;
}

bool is_json(std::string_view body) {
  return JsonText(body).ok();
}

void check_edit(std::string_view body, const Call& call, UsagePolicy policy) {
  const std::vector<Splice> splices = kChatCompletions.edit_call(body, call, policy);
  const std::string edited = apply_splices(body, splices);
  const Result<Call> after = kChatCompletions.read_call(edited);
  LLMPROXY_CHECK(after.ok());
  LLMPROXY_CHECK(after->model == call.model);
  LLMPROXY_CHECK(after->is_stream == call.is_stream);
  LLMPROXY_CHECK(after->choices == call.choices);
  const bool asks = call.is_stream && policy != UsagePolicy::kAsIs;
  const bool asks_continuous = call.is_stream && policy == UsagePolicy::kContinuous;
  LLMPROXY_CHECK(after->asks_usage == (call.asks_usage || asks));
  LLMPROXY_CHECK(after->asks_continuous == (call.asks_continuous || asks_continuous));
  if (!asks) LLMPROXY_CHECK(splices.empty());
  LLMPROXY_CHECK(rest_of(edited) == rest_of(body));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const Result<Call> call = kChatCompletions.read_call(body);
  if (!call.ok()) {
    LLMPROXY_CHECK(call.error().status == 400 && !call.error().message.empty());
    return 0;
  }
  LLMPROXY_CHECK(is_json(body) && !call->model.empty() && call->choices >= 1);
  for (const auto policy : {UsagePolicy::kAsk, UsagePolicy::kAsIs, UsagePolicy::kContinuous}) {
    check_edit(body, *call, policy);
  }
  return 0;
}
