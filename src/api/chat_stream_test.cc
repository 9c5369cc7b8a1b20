// Golden streams of real servers: what the client gets and what the reader learns, however they are
// cut and whatever their line ends.
#include "api/chat_stream.h"

#include <gtest/gtest.h>

#include <ostream>
#include <random>

#include "api/stream_trial.h"

namespace llmproxy {

bool operator==(const ReplyFacts& a, const ReplyFacts& b) {
  return a.final_figure == b.final_figure && a.running_figure == b.running_figure &&
         a.is_malformed == b.is_malformed && a.data_events == b.data_events &&
         a.saw_other_bytes == b.saw_other_bytes && a.saw_error == b.saw_error &&
         a.saw_terminal == b.saw_terminal;
}

void PrintTo(const ReplyFacts& facts, std::ostream* out) {
  const auto print = [&](const char* name, const std::optional<Figure>& figure) {
    *out << name;
    if (figure) *out << figure->prompt_n << "+" << figure->completion_n;
  };
  print("final ", facts.final_figure);
  print(", running ", facts.running_figure);
  *out << ", malformed " << facts.is_malformed << ", data " << facts.data_events << ", error "
       << facts.saw_error << ", terminal " << facts.saw_terminal << ", other bytes "
       << facts.saw_other_bytes;
}

namespace {

using Kind = StreamReader::Piece::Kind;
constexpr auto kAsk = UsagePolicy::kAsk;
constexpr auto kAsIs = UsagePolicy::kAsIs;
constexpr auto kContinuous = UsagePolicy::kContinuous;

Call stream_call(bool asks_usage = false, bool asks_continuous = false, int64_t choices = 1) {
  Call call;
  call.model = "m";
  call.is_stream = true;
  call.asks_usage = asks_usage;
  call.asks_continuous = asks_continuous;
  call.choices = choices;
  return call;
}

struct Golden {
  std::string name;
  Call call;
  UsagePolicy policy = kAsk;
  std::string in;
  std::string out{};  // "=" for the same as in
  ReplyFacts facts{};
};

ReplyFacts facts(std::optional<Figure> final_figure, uint64_t data_events, bool has_done = true) {
  ReplyFacts facts;
  facts.final_figure = final_figure;
  facts.data_events = data_events;
  facts.saw_terminal = has_done;
  return facts;
}

ReplyFacts with_running(ReplyFacts facts, Figure running) {
  facts.running_figure = running;
  return facts;
}

ReplyFacts with_error(ReplyFacts facts) {
  facts.saw_error = true;
  return facts;
}

ReplyFacts malformed(ReplyFacts facts) {
  facts.is_malformed = true;
  return facts;
}

ReplyFacts with_other_bytes(ReplyFacts facts) {
  facts.saw_other_bytes = true;
  return facts;
}

// One data event; `more` is the rest of the chunk's members.
std::string event(const std::string& json) {
  return "data: " + json + "\n\n";
}
std::string chunk(const std::string& choices, const std::string& more = "") {
  return event(
      R"({"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[)" +
      choices + "]" + more + "}");
}
std::string choice(const std::string& text, const std::string& finish = "null", int index = 0) {
  return R"({"index":)" + std::to_string(index) + R"(,"delta":{"content":")" + text +
         R"("},"finish_reason":)" + finish + "}";
}
std::string usage(int prompt, int completion) {
  return R"(,"usage":{"prompt_tokens":)" + std::to_string(prompt) + R"(,"completion_tokens":)" +
         std::to_string(completion) + R"(,"total_tokens":)" + std::to_string(prompt + completion) +
         "}";
}

const std::string kStop = R"("stop")";
const std::string kNull = R"(,"usage":null)";
const std::string kDone = "data: [DONE]\n\n";

// Servers as they are asked and as they answer.
std::vector<Golden> common_goldens() {
  const std::string plain = chunk(choice("a")) + chunk(choice("b")) + chunk(choice("", kStop));
  const std::string nulls =
      chunk(choice("a"), kNull) + chunk(choice("b"), kNull) + chunk(choice("", kStop), kNull);
  const std::string running = chunk(choice("a"), usage(9, 1)) + chunk(choice("b"), usage(9, 2)) +
                              chunk(choice("", kStop), usage(9, 3));
  const std::string end = chunk("", usage(9, 3));
  const ReplyFacts five = facts(Figure{9, 3}, 5);
  const std::string timings = R"(,"timings":{"prompt_n":9,"predicted_n":3})";
  return {
      {"1 OpenAI, client asked", stream_call(true), kAsk, nulls + end + kDone, "=", five},
      {"2 OpenAI, forced", stream_call(), kAsk, nulls + end + kDone, plain + kDone, five},
      {"3 OpenAI, obfuscation, forced", stream_call(), kAsk,
       chunk(choice("a"), R"(,"usage":null,"obfuscation":"x1")") +
           chunk(choice("", kStop), R"(,"obfuscation":"x2","usage":null)") +
           chunk("", usage(9, 3) + R"(,"obfuscation":"")") + kDone,
       chunk(choice("a"), R"(,"obfuscation":"x1")") +
           chunk(choice("", kStop), R"(,"obfuscation":"x2")") + kDone,
       facts(Figure{9, 3}, 4)},
      {"6 Azure, leading filter chunk", stream_call(), kAsk,
       event(R"({"choices":[],"created":0,"id":"","model":"","prompt_filter_results":[{"i":0}]})") +
           plain + end + kDone,
       event(R"({"choices":[],"created":0,"id":"","model":"","prompt_filter_results":[{"i":0}]})") +
           plain + kDone,
       facts(Figure{9, 3}, 6)},
      {"7 vLLM 0.4, usage on the last chunk, unasked", stream_call(), kAsIs,
       chunk(choice("a")) + chunk(choice("", kStop), usage(9, 3)) + kDone, "=",
       facts(Figure{9, 3}, 3)},
      {"7 the same, stripped", stream_call(), kAsk,
       chunk(choice("a")) + chunk(choice("", kStop), usage(9, 3)) + kDone,
       chunk(choice("a")) + chunk(choice("", kStop)) + kDone, facts(Figure{9, 3}, 3)},
      {"9 vLLM forces running usage", stream_call(), kAsk, running + end + kDone, plain + kDone,
       with_running(five, {9, 2})},
      {"9 the same, as is", stream_call(), kAsIs, running + end + kDone, "=",
       with_running(five, {9, 2})},
      {"18 llama.cpp ping between usage and [DONE]", stream_call(), kAsk,
       plain + end + ":\n\n" + kDone, plain + ":\n\n" + kDone, five},
      {"19 llama.cpp, only timings", stream_call(), kAsIs,
       chunk(choice("a")) + chunk(choice("", kStop), timings) + kDone, "=", facts({}, 3)},
      {"19 llama.cpp, timings beside usage", stream_call(), kAsk,
       plain + chunk("", usage(9, 3) + timings) + kDone, plain + kDone, five},
  };
}

// Running figures, which the proxy asked for, the client did not or only for the total.
std::vector<Golden> continuous_goldens() {
  const std::string plain = chunk(choice("a")) + chunk(choice("b")) + chunk(choice("", kStop));
  const std::string last = chunk(choice("", kStop), usage(9, 3));
  const std::string running =
      chunk(choice("a"), usage(9, 1)) + chunk(choice("b"), usage(9, 2)) + last;
  const std::string nulls = chunk(choice("a"), kNull) + chunk(choice("b"), kNull) + last;
  const std::string end = chunk("", usage(9, 3));
  const ReplyFacts five = facts(Figure{9, 3}, 5);
  return {
      {"8 vLLM continuous, asked by nobody but the proxy", stream_call(), kContinuous,
       running + end + kDone, plain + kDone, with_running(five, {9, 2})},
      {"8 the client asked for the total", stream_call(true), kContinuous, running + end + kDone,
       nulls + end + kDone, with_running(five, {9, 2})},
      {"7 of a continuous backend, the client asked for it", stream_call(true), kContinuous,
       chunk(choice("a")) + last + kDone, "=", facts(Figure{9, 3}, 3)},
      {"52 Gemini of a continuous backend, the client asked for the total", stream_call(true),
       kContinuous, running + kDone, nulls + kDone, with_running(facts(Figure{9, 3}, 4), {9, 2})},
      {"a figure after the finish reason of a continuous backend", stream_call(true), kContinuous,
       plain + chunk(choice(""), usage(9, 3)) + kDone, "=", five},
      {"8 the client asked for both", stream_call(true, true), kContinuous, running + end + kDone,
       "=", with_running(five, {9, 2})},
  };
}

// The chunk made for usage, of a client that did not ask for it.
std::vector<Golden> usage_chunk_goldens() {
  const std::string plain = chunk(choice("a")) + chunk(choice("b")) + chunk(choice("", kStop));
  const std::string end = chunk("", usage(9, 3));
  const ReplyFacts five = facts(Figure{9, 3}, 5);
  return {
      {"foreign member beside usage stays", stream_call(), kAsk,
       plain + chunk("", usage(9, 3) + R"(,"metrics":{"x":1})") + kDone,
       plain + chunk("", R"(,"metrics":{"x":1})") + kDone, five},
      {"usage chunk without choices", stream_call(), kAsk,
       plain + event(R"({"id":"c1","usage":{"prompt_tokens":9,"completion_tokens":3}})") + kDone,
       plain + kDone, five},
      {"usage chunk whose choices are null", stream_call(), kAsk,
       plain + event(R"({"choices":null,"usage":{"prompt_tokens":9,"completion_tokens":3}})") +
           kDone,
       plain + kDone, five},
      {"foreign member beside usage without choices stays", stream_call(), kAsk,
       plain + event(R"({"usage":{"prompt_tokens":9,"completion_tokens":3},"x":1})") + kDone,
       plain + event(R"({"x":1})") + kDone, five},
      {"null members are not foreign", stream_call(), kAsk,
       plain + chunk("", R"(,"sglext":null)" + usage(9, 3)) + kDone, plain + kDone, five},
      {"SGLang extra chunk", stream_call(), kAsk,
       plain + chunk("", R"(,"usage":null,"sglext":{"x":1})") + end + kDone,
       plain + chunk("", R"(,"sglext":{"x":1})") + kDone, facts(Figure{9, 3}, 6)},
  };
}

// Errors, cuts, and figures that are none.
std::vector<Golden> odd_goldens() {
  const std::string plain = chunk(choice("a")) + chunk(choice("", kStop));
  const std::string error =
      event(R"({"error":{"message":"boom","type":"E","param":null,"code":500}})");
  const std::string zero = chunk("", usage(0, 0));
  return {
      {"12 vLLM error mid-way", stream_call(), kAsk, chunk(choice("a")) + error + kDone, "=",
       with_error(facts({}, 3))},
      {"13 vLLM error first", stream_call(), kAsk, error + kDone, "=", with_error(facts({}, 2))},
      {"15 SGLang error, then usage", stream_call(), kAsk,
       chunk(choice("a")) + error + chunk("", usage(9, 1)) + kDone,
       chunk(choice("a")) + error + kDone, with_error(facts(Figure{9, 1}, 4))},
      {"zeros after an error", stream_call(true), kAsk, chunk(choice("a")) + error + zero + kDone,
       "=", malformed(with_error(facts({}, 4)))},
      {"a final figure, an error, zeros: malformed after a good one", stream_call(true), kAsk,
       plain + chunk("", usage(9, 3)) + error + zero + kDone, "=",
       malformed(with_error(facts(Figure{9, 3}, 6)))},
      {"zeros without an error", stream_call(true), kAsk, plain + zero + kDone, "=",
       facts(Figure{0, 0}, 4)},
      {"25 TGI error", stream_call(), kAsk,
       chunk(choice("a")) + event(R"({"error":{"message":"x","http_status_code":422}})") + kDone,
       "=", with_error(facts({}, 3))},
      {"an error of null is none", stream_call(), kAsk,
       chunk(choice("a"), R"(,"error":null)") + kDone, "=", facts({}, 2)},
      {"error by the event's name", stream_call(), kAsk,
       "event: error\ndata: {\"message\":\"x\"}\n\n", "=", with_error(facts({}, 1, false))},
      {"error by the event's name behind its data", stream_call(true), kAsk,
       "data: {\"message\":\"x\"}\nevent: error\n\n" + zero + kDone, "=",
       malformed(with_error(facts({}, 3)))},
      {"28 Ollama dies", stream_call(), kAsk, chunk(choice("a")) + chunk(choice("")), "=",
       facts({}, 2, false)},
      {"51 DeepSeek keep-alive", stream_call(), kAsk,
       ": keep-alive\n\n" + plain + chunk("", usage(9, 1)) + kDone,
       ": keep-alive\n\n" + plain + kDone, facts(Figure{9, 1}, 4)},
      {"52 Groq's x_groq and Moonshot's choices[0] are not top-level", stream_call(), kAsk,
       chunk(R"({"index":0,"delta":{},"finish_reason":"stop"})" + std::string(),
             R"(,"x_groq":{"id":"r","usage":{"prompt_tokens":9,"completion_tokens":3}})") +
           chunk(R"({"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":9,)"
                 R"("completion_tokens":3}})") +
           kDone,
       "=", facts({}, 3)},
      {"52 Gemini, running total on each chunk", stream_call(), kAsIs,
       chunk(choice("a"), usage(9, 1)) + chunk(choice("b", kStop), usage(9, 4)) + kDone, "=",
       with_running(facts(Figure{9, 4}, 3), {9, 1})},
      {"usage after [DONE] counts", stream_call(), kAsk, plain + kDone + chunk("", usage(9, 3)),
       plain + kDone, facts(Figure{9, 3}, 4)},
      {"cut before the finish reason", stream_call(), kContinuous,
       chunk(choice("a"), usage(9, 1)) + chunk(choice("b"), usage(9, 2)),
       chunk(choice("a")) + chunk(choice("b")), with_running(facts({}, 2, false), {9, 2})},
      {"an empty finish reason is none", stream_call(), kAsIs,
       chunk(choice("a", R"("")"), usage(9, 1)), "=", with_running(facts({}, 1, false), {9, 1})},
      {"a figure after a finish reason", stream_call(), kAsIs,
       plain + event(R"({"usage":{"prompt_tokens":9,"completion_tokens":3}})"), "=",
       facts(Figure{9, 3}, 3, false)},
      {"a figure without choices before it", stream_call(), kAsIs,
       event(R"({"usage":{"prompt_tokens":9,"completion_tokens":3}})"), "=",
       with_running(facts({}, 1, false), {9, 3})},
      {"a chunk dropped before one that is rewritten", stream_call(), kAsk,
       chunk(choice("a")) + chunk("", usage(9, 3)) + chunk(choice("b", kStop), kNull) + kDone,
       chunk(choice("a")) + chunk(choice("b", kStop)) + kDone, facts(Figure{9, 3}, 4)},
      {"the last final figure", stream_call(true), kAsk,
       plain + chunk("", usage(9, 3)) + chunk("", usage(9, 4)) + kDone, "=",
       facts(Figure{9, 4}, 5)},
  };
}

// What is no strict JSON somewhere else in a chunk costs neither its figure nor its edit.
std::vector<Golden> broken_goldens() {
  std::vector<Golden> goldens;
  const Call two = stream_call(true, false, 2);
  const std::vector<std::string> values = {"NaN",
                                           "[-Infinity,1]",
                                           "1e999",
                                           "123456789012345678901234",
                                           R"("\ud800")",
                                           "\"\xff\xfe\"",
                                           R"({"x":"\x"})",
                                           "01",
                                           std::string(70, '[') + std::string(70, ']'),
                                           "\"\t\x01\""};
  for (const std::string& value : values) {
    const std::string odd = R"(,"odd":)" + value;
    const auto odd_choice = [&](const std::string& finish, int index) {
      return R"({"logprobs":)" + value + R"(,"index":)" + std::to_string(index) +
             R"(,"delta":{"content":"}],\"usage\":{}"},"finish_reason":)" + finish + "}";
    };
    const std::string last = odd_choice(kStop, 0);
    const std::string usage_null = chunk(odd_choice("null", 0), kNull);
    goldens.push_back({"forced, beside the finish reason, " + value, stream_call(), kAsk,
                       usage_null + chunk(last, usage(9, 3)) + kDone,
                       chunk(odd_choice("null", 0)) + chunk(last) + kDone, facts(Figure{9, 3}, 3)});
    goldens.push_back({"usage behind the finish reason, " + value, stream_call(true), kAsk,
                       chunk(last) + chunk(choice(""), usage(9, 3)) + kDone, "=",
                       facts(Figure{9, 3}, 3)});
    goldens.push_back({"forced, usage chunk, " + value, stream_call(), kAsk,
                       chunk(last) + chunk("", odd + usage(9, 3)) + kDone,
                       chunk(last) + chunk("", odd) + kDone, facts(Figure{9, 3}, 3)});
    goldens.push_back({"running, " + value, stream_call(true), kContinuous,
                       chunk(odd_choice("null", 0), usage(9, 1)), usage_null,
                       with_running(facts({}, 1, false), {9, 1})});
    goldens.push_back({"two choices, " + value, two, kAsk,
                       chunk(last) + chunk(odd_choice(kStop, 1)) + chunk("", usage(9, 3) + odd),
                       "=", facts(Figure{9, 3}, 3, false)});
    goldens.push_back({"zeros beside an odd error, " + value, stream_call(true), kAsk,
                       chunk("", R"(,"error":)" + value + usage(0, 0)), "=",
                       malformed(with_error(facts({}, 1, false)))});
    goldens.push_back({"two usages, " + value, stream_call(true), kAsk,
                       chunk("", usage(9, 3) + odd + usage(9, 3)), "=",
                       malformed(facts({}, 1, false))});
    goldens.push_back({"usage inside, " + value, stream_call(), kAsk,
                       chunk(odd_choice("null", 0), R"(,"x":{"usage":{"prompt_tokens":1,)"
                                                    R"("completion_tokens":999}})"),
                       "=", facts({}, 1, false)});
  }
  const std::string whole =
      R"({"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}})";
  goldens.push_back({"a byte order mark before JSON", stream_call(), kAsk,
                     event("\xEF\xBB\xBF" + whole),
                     event("\xEF\xBB\xBF{\"choices\":[{\"finish_reason\":\"stop\"}]}"),
                     facts(Figure{9, 3}, 1, false)});
  goldens.push_back({"an object that does not close", stream_call(true), kAsk,
                     event(whole.substr(0, whole.size() - 1)), "=",
                     malformed(facts({}, 1, false))});
  goldens.push_back({"an object with text behind it", stream_call(true), kAsk, event(whole + "}"),
                     "=", malformed(facts({}, 1, false))});
  return goldens;
}

std::vector<Golden> malformed_goldens() {
  std::vector<Golden> goldens;
  const std::vector<std::string> figures = {
      "{}",
      "[]",
      "5",
      R"("9")",
      "true",
      R"({"prompt_tokens":9})",
      R"({"prompt_tokens":9,"completion_tokens":"3"})",
      R"({"prompt_tokens":9,"completion_tokens":null})",
      R"({"prompt_tokens":9,"completion_tokens":-1})",
      R"({"prompt_tokens":9,"completion_tokens":3.5})",
      R"({"prompt_tokens":9,"completion_tokens":9007199254740993})",
      R"({"prompt_tokens":9,"completion_tokens":1e16})",
      R"({"prompt_tokens":9,"completion_tokens":18446744073709551615})",
      R"({"prompt_tokens":9,"completion_tokens":3,"completion_tokens":3})",
      R"({"prompt_tokens":9,"completion_tokens":NaN})",
      R"({"prompt_tokens":9,"completion_tokens":123456789012345678901234})",
      R"({"prompt_tokens":9,"completion_tokens":3},)"
      R"("usage":{"prompt_tokens":9,"completion_tokens":3})",
  };
  for (const std::string& figure : figures) {
    const std::string bad = event(R"({"choices":[],"usage":)" + figure + "}");
    goldens.push_back(
        {"only " + figure, stream_call(true), kAsk, bad + kDone, "=", malformed(facts({}, 2))});
    goldens.push_back({"after a good one " + figure, stream_call(true), kAsk,
                       chunk("", usage(9, 3)) + bad + kDone, "=",
                       malformed(facts(Figure{9, 3}, 3))});
    goldens.push_back({"before a good one " + figure, stream_call(true), kAsk,
                       bad + chunk("", usage(9, 3)) + kDone, "=", facts(Figure{9, 3}, 3)});
  }
  for (const char* count : {"3", "3.0", "3e0", "30e-1"}) {
    const std::string good = event(R"({"choices":[],"usage":{"completion_tokens":)" +
                                   std::string(count) + R"(,"prompt_tokens":9007199254740992}})");
    goldens.push_back(
        {count, stream_call(true), kAsk, good, "=", facts(Figure{kCountMax, 3}, 1, false)});
  }
  return goldens;
}

std::vector<Golden> several_goldens() {
  const Call two = stream_call(true, false, 2);
  const Call three = stream_call(true, false, 3);
  const auto last = [](int index) { return choice("", kStop, index); };
  const std::string both = chunk(choice("a")) + chunk(choice("b", "null", 1));
  const std::string error = event(R"({"error":{"message":"boom"}})");
  return {
      {"5 OpenAI n=3", three, kAsk,
       both + chunk(choice("c", "null", 2)) + chunk(last(0)) + chunk(last(1)) + chunk(last(2)) +
           chunk("", usage(9, 30)) + kDone,
       "=", facts(Figure{9, 30}, 8)},
      {"llama.cpp n=2, one figure per choice", two, kAsk,
       chunk(choice("a")) + chunk(last(0)) + chunk("", usage(9, 1)) +
           chunk(choice("b", "null", 1)) + chunk(last(1)) + chunk("", usage(9, 2)) + kDone,
       "=", facts(Figure{9, 3}, 7)},
      {"llama.cpp n=2, the second is missing", two, kAsk,
       chunk(choice("a")) + chunk(last(0)) + chunk("", usage(9, 1)) +
           chunk(choice("b", "null", 1)) + chunk(last(1)) + kDone,
       "=", facts({}, 6)},
      {"llama.cpp n=2, prompts differ", two, kAsk,
       both + chunk(last(0)) + chunk(last(1)) + chunk("", usage(9, 1)) + chunk("", usage(8, 2)) +
           kDone,
       "=", malformed(facts({}, 7))},
      {"llama.cpp n=2, the first unreadable", two, kAsk,
       both + chunk(last(0)) + chunk(last(1)) + chunk("", R"(,"usage":{})") +
           chunk("", usage(9, 2)) + kDone,
       "=", facts({}, 7)},
      {"a figure before the other choice has ended", two, kAsk,
       both + chunk(last(0)) + chunk("", usage(9, 1)) + kDone, "=", facts({}, 5)},
      {"n=3, two figures", three, kAsk,
       both + chunk(last(0)) + chunk(last(1)) + chunk(last(2)) + chunk("", usage(9, 1)) +
           chunk("", usage(9, 2)) + kDone,
       "=", facts({}, 8)},
      {"a server that knows no n", two, kAsk,
       chunk(choice("a")) + chunk(last(0)) + chunk("", usage(9, 1)) + kDone, "=",
       facts(Figure{9, 1}, 4)},
      {"the same after an error", two, kAsk,
       chunk(choice("a")) + chunk(last(0)) + error + chunk("", usage(9, 1)) + kDone, "=",
       with_error(facts({}, 5))},
      {"a figure on each last chunk", two, kAsIs,
       both + chunk(last(0), usage(9, 1)) + chunk(last(1), usage(9, 2)) + kDone, "=",
       facts(Figure{9, 3}, 5)},
      {"a figure on one of two last chunks", two, kAsIs,
       both + chunk(last(0), usage(9, 1)) + chunk(last(1)) + kDone, "=", facts({}, 5)},
      {"one figure on the chunk that ends the last choice", two, kAsIs,
       both + chunk(last(0)) + chunk(last(1), usage(9, 3)) + kDone, "=", facts(Figure{9, 3}, 5)},
      {"one chunk ends both", two, kAsIs,
       both + chunk(last(0) + "," + last(1), usage(9, 3)) + kDone, "=", facts(Figure{9, 3}, 4)},
      {"running figures and the total", two, kContinuous,
       chunk(choice("a"), usage(9, 1)) + chunk(last(0), usage(9, 2)) + chunk(last(1), usage(9, 1)) +
           chunk("", usage(9, 3)) + kDone,
       chunk(choice("a"), kNull) + chunk(last(0), kNull) + chunk(last(1), kNull) +
           chunk("", usage(9, 3)) + kDone,
       with_running(facts(Figure{9, 3}, 5), {9, 1})},
      {"running figures without a total", two, kAsIs,
       chunk(choice("a"), usage(9, 1)) + chunk(last(0), usage(9, 2)) + chunk(last(1), usage(9, 3)) +
           kDone,
       "=", with_running(facts({}, 4), {9, 1})},
      {"a figure on each last chunk of a continuous backend", two, kContinuous,
       both + chunk(last(0), usage(9, 1)) + chunk(last(1), usage(9, 2)) + kDone, "=",
       facts(Figure{9, 3}, 5)},
      {"a choice without index", two, kAsk,
       event(R"({"choices":[{"finish_reason":"stop"}]})") + chunk("", usage(9, 3)) + kDone, "=",
       facts({}, 3)},
  };
}

// Section 7, numbers 53 and 54.
std::vector<Golden> framing_goldens() {
  const std::string head = R"(data: {"choices":[],)";
  const std::string figure = R"("usage":{"prompt_tokens":9,"completion_tokens":3})";
  const std::string fake = R"(\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":999})";
  const std::string done = R"(data: [DONE]\n\n)";
  return {
      {"23 no blank after the colon", stream_call(), kAsk,
       "data:{\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":null}\n\ndata:{\"choices\":[]," +
           figure + "}\n\ndata:[DONE]\n\n",
       "data:{\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata:[DONE]\n\n",
       facts(Figure{9, 3}, 3)},
      {"a blank before the line end", stream_call(true), kAsk,
       head + figure + "} \n\ndata: [DONE] \n\n", "=", facts(Figure{9, 3}, 2)},
      {"data in several lines", stream_call(true), kAsk,
       "data: {\"choices\":[],\ndata: "
       "\"usage\":{\"prompt_tokens\":9,\ndata:\"completion_tokens\":3}}\n\n",
       "=", facts(Figure{9, 3}, 1, false)},
      {"usage removed from several lines", stream_call(), kAsk,
       "id: 7\ndata: {\"choices\":[{\"index\":0}],\ndata: \"usage\":{\"prompt_tokens\":9,\n: ping\n"
       "data:\"completion_tokens\":3},\ndata: \"a\":1}\n\n",
       "id: 7\ndata: {\"choices\":[{\"index\":0}]\ndata: \n: ping\ndata:,\ndata: \"a\":1}\n\n",
       with_running(facts({}, 1, false), {9, 3})},
      {"a key and its colon on two lines", stream_call(), kAsk,
       "data: {\"choices\":[1],\"usage\"\ndata::\ndata: null}\n\n"
       "data: {\"choices\":[],\"usage\"\ndata: :{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n",
       "data: {\"choices\":[1]\ndata:\ndata: }\n\n", facts(Figure{9, 3}, 2, false)},
      {"other fields", stream_call(true), kAsk,
       "retry: 5\n\nevent: x\nid: 1\n" + head + figure + "}\n\nevent: y\n\n", "=",
       facts(Figure{9, 3}, 1, false)},
      {"no empty line at the end", stream_call(true), kAsk, head + figure + "}", "=",
       facts(Figure{9, 3}, 1, false)},
      {"no empty line after [DONE]", stream_call(true), kAsk, "data: [DONE]", "=", facts({}, 1)},
      {"usage at the end without its empty line, removed", stream_call(), kAsk,
       chunk(choice("a")) + head + figure + "}\n", chunk(choice("a")),
       facts(Figure{9, 3}, 2, false)},
      {"cut inside usage", stream_call(true), kAsk, head + R"("usage":{"prompt_tokens":9,"comple)",
       "=", facts({}, 1, false)},
      {"54 content that looks like usage and like [DONE]", stream_call(), kAsk,
       chunk(choice(fake)) + chunk(choice(done)) + chunk(choice("usage")), "=",
       facts({}, 3, false)},
      {"54 usage inside tool arguments and foreign objects", stream_call(), kAsk,
       chunk(
           R"({"index":0,"delta":{"tool_calls":[{"function":{"arguments":"{)" + fake + R"(}"}}]}})",
           R"(,"x":{"usage":{"prompt_tokens":1,"completion_tokens":999},"error":{"m":1}})"),
       "=", facts({}, 1, false)},
      {"usage as a value", stream_call(), kAsk, chunk(choice("a"), R"(,"x":"usage","y":"error")"),
       "=", facts({}, 1, false)},
      {"no JSON", stream_call(), kAsk, "data: hello \"usage\": 5\n\ndata: {\n\ndata: \n\ndata\n\n",
       "=", facts({}, 4, false)},
      {"JSON, but no object", stream_call(), kAsk, "data: [{\"usage\":{}}]\n\ndata: 7\n\n", "=",
       facts({}, 2, false)},
      {"bytes that are no UTF-8", stream_call(), kAsk, chunk(choice("\xff\xfe")), "=",
       facts({}, 1, false)},
      {"blanks in JSON", stream_call(), kAsk,
       "data: {\"choices\" : [ {\"finish_reason\" : \"stop\"} ] , \"usage\" : null }\n\n"
       "data: { \"usage\" : { \"prompt_tokens\" : 9 , \"completion_tokens\" : 3 } , \"choices\" : "
       "[ ] }\n\n",
       "data: {\"choices\" : [ {\"finish_reason\" : \"stop\"} ] }\n\n",
       facts(Figure{9, 3}, 2, false)},
      {"usage as first member", stream_call(), kAsk,
       "data: {\"usage\":null, \"choices\":[{\"index\":0}]}\n\n",
       "data: {\"choices\":[{\"index\":0}]}\n\n", facts({}, 1, false)},
      {"only usage", stream_call(), kAsk, "data: {\"usage\":null}\n\n", "data: {}\n\n",
       facts({}, 1, false)},
      {"nothing", stream_call(), kAsk, "", "", facts({}, 0, false)},
      {"empty lines", stream_call(), kAsk, "\n\n\n:\n\n\n", "=", facts({}, 0, false)},
  };
}

// What is an event, and what is none.
std::vector<Golden> other_bytes_goldens() {
  return {
      {"fields without data", stream_call(), kAsk, "event: x\nid\n\nretry: 5\n\n:\n\n: a", "=",
       facts({}, 0, false)},
      {"comments before a usage chunk", stream_call(), kAsk,
       ": ping\n:\n" + chunk("", usage(9, 3)) + chunk("", usage(9, 3)) + kDone,
       ": ping\n:\n\n" + kDone, facts(Figure{9, 3}, 3)},
      {"bare JSON", stream_call(), kAsk,
       R"({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}})", "=",
       with_other_bytes(facts({}, 0, false))},
      {"HTML", stream_call(), kAsk, "<html>\n<body>\n\n</html>\n", "=",
       with_other_bytes(facts({}, 0, false))},
      {"compressed bytes", stream_call(), kAsk, "\x1f\x8b\x08\x02\n\n\x7f\xff\n\x03", "=",
       with_other_bytes(facts({}, 0, false))},
      {"a field that nobody knows", stream_call(), kAsk, ": a\nfield: b\n\n", "=",
       with_other_bytes(facts({}, 0, false))},
  };
}

std::vector<Golden> all_goldens() {
  std::vector<Golden> all;
  for (auto table :
       {common_goldens, continuous_goldens, usage_chunk_goldens, odd_goldens, broken_goldens,
        malformed_goldens, several_goldens, framing_goldens, other_bytes_goldens}) {
    for (Golden& golden : table()) {
      if (golden.out == "=") golden.out = golden.in;
      all.push_back(std::move(golden));
    }
  }
  return all;
}

StreamTrial run(const Golden& golden, std::string_view in, const std::vector<size_t>& cuts = {}) {
  const auto reader = read_chat_stream(golden.call, golden.policy);
  return try_stream(*reader, in, cuts);
}

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// LF, CRLF and CR in turn; never a CR before an empty line that ends in LF, which would be one line
// end.
std::string with_mixed_ends(std::string_view text) {
  std::string out;
  size_t turn = 0;
  for (const char c : text) {
    if (c != '\n') {
      out += c;
      continue;
    }
    out += out.ends_with('\r') ? "\r" : std::array{"\n", "\r\n", "\r"}[turn++ % 3];
  }
  return out;
}

std::string with_line_feeds(const std::string& text) {
  return replace_all(replace_all(text, "\r\n", "\n"), "\r", "\n");
}

void check_every_cut(const Golden& golden, const std::string& in, const std::string& out) {
  const StreamTrial whole = run(golden, in);
  EXPECT_EQ(whole.client, out);
  EXPECT_EQ(whole.facts, golden.facts);
  const StreamTrial bytewise = run(golden, in, every_offset(in.size()));
  EXPECT_EQ(bytewise.client, out);
  EXPECT_EQ(bytewise.held, whole.held);
  EXPECT_EQ(bytewise.facts, golden.facts);
  for (size_t cut = 1; cut < in.size(); ++cut) {
    const StreamTrial split = run(golden, in, {cut});
    ASSERT_EQ(split.client, out) << "cut at " << cut;
    ASSERT_EQ(split.held, whole.held) << "cut at " << cut;
    ASSERT_EQ(split.facts, golden.facts) << "cut at " << cut;
  }
}

TEST(ChatStream, GoldenStreamsGiveTheirBytesAndFactsHoweverCut) {
  for (const Golden& golden : all_goldens()) {
    SCOPED_TRACE(golden.name);
    check_every_cut(golden, golden.in, golden.out);
  }
}

TEST(ChatStream, LineEndsStayAsTheyAre) {
  for (const Golden& golden : all_goldens()) {
    for (const char* end : {"\r\n", "\r"}) {
      SCOPED_TRACE(golden.name + (end[1] != 0 ? ", CRLF" : ", CR"));
      check_every_cut(golden, replace_all(golden.in, "\n", end),
                      replace_all(golden.out, "\n", end));
    }
  }
}

TEST(ChatStream, MixedLineEnds) {
  for (const Golden& golden : all_goldens()) {
    SCOPED_TRACE(golden.name);
    const std::string in = with_mixed_ends(golden.in);
    const StreamTrial whole = run(golden, in);
    EXPECT_EQ(with_line_feeds(whole.client), golden.out);
    check_every_cut(golden, in, whole.client);
  }
}

TEST(ChatStream, ByteOrderMarkIsPassedAndIgnored) {
  for (const Golden& golden : all_goldens()) {
    if (!golden.in.starts_with("data: ") || golden.out.empty()) continue;
    SCOPED_TRACE(golden.name);
    check_every_cut(golden, "\xEF\xBB\xBF" + golden.in, "\xEF\xBB\xBF" + golden.out);
  }
}

TEST(ChatStream, EverythingFromDoneOnIsHeld) {
  const Golden golden{.name = "", .call = stream_call(), .in = ""};
  const std::string in = chunk(choice("a")) + kDone + ":\n\n" + kDone;
  const StreamTrial trial = run(golden, in);
  EXPECT_EQ(trial.held, kDone + ":\n\n" + kDone);
  EXPECT_EQ(trial.pieces,
            (std::vector{Kind::kPass, Kind::kTerminal, Kind::kPass, Kind::kTerminal}));
}

TEST(ChatStream, EventsTreatedAlikeMakeOnePiece) {
  const Golden golden{.name = "", .call = stream_call(), .in = ""};
  const std::string in = chunk(choice("a")) + chunk(choice("b")) + ":\n\n" + chunk(choice("c")) +
                         chunk(choice("d"), kNull) + chunk(choice("", kStop), kNull) +
                         chunk("", usage(9, 3)) + kDone;
  EXPECT_EQ(run(golden, in).pieces, (std::vector{Kind::kPass, Kind::kReplace, Kind::kTerminal}));
}

// Bytes are searched many at once: wherever a key lies among them, it is found.
TEST(ChatStream, KeysAreSeenWhereverTheyStand) {
  const std::string figure = R"("usage":{"prompt_tokens":9,"completion_tokens":3})";
  for (size_t before = 0; before < 80; ++before) {
    for (size_t after = 0; after < 80; ++after) {
      const std::string front = R"({"choices":[],"id":")" + std::string(before, 'x') + R"(",)";
      const std::string text = "data: " + front + figure + std::string(after, ' ') + "}\n\n";
      const auto reader = read_chat_stream(stream_call(true), kAsk);
      ASSERT_EQ(reader->next(text).kind, Kind::kPass);
      ASSERT_EQ(reader->facts().final_figure, (Figure{9, 3})) << before << " " << after;
    }
  }
}

// Events that come whole may be recognised by those before them; cut ones are always read. Whatever
// follows whatever, both say the same.
TEST(ChatStream, RecognisedEventsSayWhatReadOnesSay) {
  const std::vector<std::string> events = {
      chunk(choice("The")),
      chunk(choice(" sky")),
      chunk(choice("")),
      chunk(choice("usage")),
      chunk(choice(R"(a\"b)")),
      chunk(choice(R"(","usage":{"prompt_tokens":1,"completion_tokens":2},"x":")")),
      chunk(choice(std::string(400, 'x'))),
      chunk(choice("is"), kNull),
      chunk(choice(" blue"), usage(9, 2)),
      chunk(choice("", kStop)),
      chunk("", usage(9, 3)),
      replace_all(chunk(choice("CR")), "\n", "\r\n"),
      "data: {\"error\":{\"message\":\"x\"}}\n\n",
      ": ping\n\n",
      "\n",
      "data: x\n\n",
      "event: error\ndata: {}\n\n",
      "data: {\"content\":\"\ndata: \"}\n\n",
      kDone,
  };
  std::minstd_rand random(1);
  for (int round = 0; round < 4000; ++round) {
    const Golden golden{.name = "", .call = stream_call(round % 2 == 0), .in = ""};
    std::string in;
    for (int i = 0; i < 12; ++i) {
      const size_t plain = random() % 3;  // mostly of one kind, as streams are
      in += events[plain > 0 ? plain - 1 : random() % events.size()];
    }
    const StreamTrial whole = run(golden, in), bytewise = run(golden, in, every_offset(in.size()));
    ASSERT_EQ(whole.client, bytewise.client) << in;
    ASSERT_EQ(whole.held, bytewise.held) << in;
    ASSERT_EQ(whole.facts, bytewise.facts) << in;
  }
}

TEST(ChatStream, ACompleteEventIsNeverHeld) {
  const auto reader = read_chat_stream(stream_call(), kAsk);
  const std::string first = chunk(choice("a"));
  for (size_t size = 0; size < first.size(); ++size) {
    ASSERT_EQ(reader->next(std::string_view(first).substr(0, size)).kind, Kind::kMore);
  }
  const StreamReader::Piece piece = reader->next(first);
  EXPECT_EQ(piece.kind, Kind::kPass);
  EXPECT_EQ(piece.size, first.size());
}

TEST(ChatStream, NothingIsStrippedFromWhatWasNotAskedAsAStream) {
  Golden golden{.name = "", .call = stream_call(), .in = ""};
  golden.call.is_stream = false;
  const std::string in = chunk(choice("a"), kNull) + chunk("", usage(9, 3)) + kDone;
  EXPECT_EQ(run(golden, in).client, in);
}

// The front of an event beyond the caller's bound is sent on unread; what it said counts as
// malformed.
TEST(ChatStream, AnEventSkippedIsMalformedUntilAGoodFigure) {
  const auto reader = read_chat_stream(stream_call(), kAsk);
  const std::string event_text = chunk(choice(std::string(100, 'x')), usage(9, 1));
  std::string_view rest = event_text;
  ASSERT_EQ(reader->next(rest.substr(0, 80)).kind, Kind::kMore);
  reader->skip(50);
  rest.remove_prefix(50);
  EXPECT_TRUE(reader->facts().is_malformed);
  ASSERT_EQ(reader->next(rest.substr(0, 60)).kind, Kind::kMore);
  reader->skip(60);
  rest.remove_prefix(60);
  const StreamReader::Piece piece = reader->next(rest);
  EXPECT_EQ(piece.kind, Kind::kPass);
  EXPECT_EQ(piece.size, rest.size());
  EXPECT_EQ(reader->facts(), malformed(facts({}, 1, false)));
  const std::string good = chunk("", usage(9, 3));
  EXPECT_EQ(reader->next(good).kind, Kind::kDrop);
  EXPECT_EQ(reader->facts(), facts(Figure{9, 3}, 2, false));
}

TEST(ChatStream, AnEventSkippedLeavesSeveralChoicesWithoutAFigure) {
  const auto reader = read_chat_stream(stream_call(true, false, 2), kAsk);
  ASSERT_EQ(reader->next("data: xxxx").kind, Kind::kMore);
  reader->skip(10);
  const std::string rest = "\n\n" + chunk(choice("", kStop)) + chunk(choice("", kStop, 1)) +
                           chunk("", usage(9, 3)) + kDone;
  EXPECT_EQ(try_stream(*reader, rest, {}).facts, facts({}, 5));
}

TEST(ChatStream, WhatIsLeftAtTheEndIsWholeOrHalfAnEvent) {
  const struct {
    std::string_view rest;
    bool is_half;
  } cases[] = {
      {"data: [DONE]", false},
      {"data: [DONE]\n", false},
      {"data: {\"choices\":[]}", false},
      {"data: {\"choices\":[],\ndata: \"x\":NaN}\n", false},
      {": ping", false},
      {"event: x\nid: 1", false},
      {"data: [DO", true},
      {"data: ", true},
      {"data", true},
      {"dat", true},
      {"data: {\"choices\":[{\"index\":0,", true},
      {"data: {\"choices\":[{\"index\":0,\"x\":NaN}]", true},
      {"data: {\"choices\":[]}\nda", true},
      {"event: x\ndata: {\"a", true},
      {"<html>", true},
  };
  for (const auto& c : cases) {
    const auto reader = read_chat_stream(stream_call(), kAsk);
    ASSERT_EQ(reader->next(c.rest).kind, Kind::kMore) << c.rest;
    EXPECT_EQ(reader->finish(c.rest, false).is_half, c.is_half) << c.rest;
  }
}

TEST(ChatStream, ARestOfWhichTheFrontWasSkippedIsHalfAnEvent) {
  const auto reader = read_chat_stream(stream_call(), kAsk);
  ASSERT_EQ(reader->next("data: {").kind, Kind::kMore);
  reader->skip(7);
  ASSERT_EQ(reader->next("}").kind, Kind::kMore);
  EXPECT_TRUE(reader->finish("}", false).is_half);
}

TEST(ChatStream, OfACutBodyAWholeRestCountsAndHalfOfOneSaysNothing) {
  const std::string rest =
      R"(data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}})";
  for (size_t size = 1; size <= rest.size(); ++size) {
    const auto reader = read_chat_stream(stream_call(true), kAsk);
    const std::string_view cut = std::string_view(rest).substr(0, size);
    ASSERT_EQ(reader->next(cut).kind, Kind::kMore);
    const bool is_whole = size == rest.size();
    const StreamReader::Piece piece = reader->finish(cut, true);
    EXPECT_EQ(piece.kind, is_whole ? Kind::kPass : Kind::kDrop) << cut;
    EXPECT_EQ(piece.size, cut.size());
    EXPECT_EQ(reader->facts(), is_whole ? facts(Figure{9, 3}, 1, false) : facts({}, 0, false));
  }
}

// Whatever a server does when asked, the client that did not ask gets what it would have got.
TEST(ChatStream, ForcedUsageLeavesNoTrace) {
  const std::vector<std::string> texts = {
      "a", "usage", R"(\"usage\":null)", R"(,\"usage\":{})", R"(\\)", "\xC5\x82", R"(\u0142)"};
  std::string forced;
  std::string plain;
  for (const std::string& text : texts) {
    for (const std::string& member : {kNull, usage(9, 1), std::string()}) {
      forced += chunk(choice(text), member);
      plain += chunk(choice(text));
    }
  }
  const Golden golden{.name = "", .call = stream_call(), .policy = kContinuous, .in = ""};
  EXPECT_EQ(run(golden, forced + chunk("", usage(9, 7)) + kDone).client, plain + kDone);
}

}  // namespace
}  // namespace llmproxy
