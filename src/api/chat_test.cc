// Requests and plain replies of POST /v1/chat/completions.
#include <gtest/gtest.h>

#include "api/endpoint.h"
#include "api/json.h"
#include "api/splice_trial.h"

namespace llmproxy {
namespace {

constexpr auto kAsk = UsagePolicy::kAsk;
constexpr auto kAsIs = UsagePolicy::kAsIs;
constexpr auto kContinuous = UsagePolicy::kContinuous;

const std::string kSecret = "what the user said";

// A call's body with these members beside model and messages.
std::string body_with(const std::string& members) {
  return R"({"model":"m","messages":[{"role":"user","content":")" + kSecret + "\"}]" +
         (members.empty() ? "" : ",") + members + "}";
}

TEST(ChatCall, ReadsWhatDecides) {
  const Call plain{.model = "m"};
  const auto with = [&](auto change) {
    Call call = plain;
    change(call);
    return call;
  };
  const struct {
    std::string body;
    Call call;
  } cases[] = {
      {body_with(""), plain},
      {R"( {"model":"m"} )", plain},
      {R"({"messages":[],"model":"meta-llama/Llama \u0142:x"})",
       with([](Call& c) { c.model = "meta-llama/Llama \xC5\x82:x"; })},
      {R"({"model":"gpt\u002d4"})", with([](Call& c) { c.model = "gpt-4"; })},
      {body_with(R"("stream":true)"), with([](Call& c) { c.is_stream = true; })},
      {body_with(R"("stream":false)"), plain},
      {body_with(R"("stream":null)"), plain},
      {body_with(R"("stream_options":null)"), plain},
      {body_with(R"("stream_options":{})"), plain},
      {body_with(R"("stream_options":{"include_usage":null,"continuous_usage_stats":false})"),
       plain},
      {body_with(R"("stream_options":{"include_usage":true,"x":1,"x":2})"),
       with([](Call& c) { c.asks_usage = true; })},
      {body_with(R"("stream_options":{"continuous_usage_stats":true})"),
       with([](Call& c) { c.asks_continuous = true; })},
      {body_with(R"("n":null,"best_of":null)"), plain},
      {body_with(R"("n":1)"), plain},
      {body_with(R"("n":3)"), with([](Call& c) { c.choices = 3; })},
      {body_with(R"("n":2,"best_of":5)"), with([](Call& c) { c.choices = 5; })},
      {body_with(R"("n":1000000)"), with([](Call& c) { c.choices = 1'000'000; })},
      {body_with(R"("use_beam_search":true)"), plain},
      {body_with(R"("x":{"model":"y","Model":1,"stream":"true"},"x":1,"modell":1,"mode":2)"),
       plain},
      {body_with(R"("\u0078":1,"y":"\u006dodel")"), plain},
  };
  for (const auto& c : cases) {
    const Result<Call> call = kChatCompletions.read_call(c.body);
    ASSERT_TRUE(call.ok()) << c.body << ": " << call.error().message;
    EXPECT_EQ(call->model, c.call.model) << c.body;
    EXPECT_EQ(call->is_stream, c.call.is_stream) << c.body;
    EXPECT_EQ(call->asks_usage, c.call.asks_usage) << c.body;
    EXPECT_EQ(call->asks_continuous, c.call.asks_continuous) << c.body;
    EXPECT_EQ(call->choices, c.call.choices) << c.body;
  }
}

// Every refusal: 400, the client to blame, the member at fault, no word of the prompt.
void expect_refused(const std::string& body, const std::string& param, const std::string& words) {
  const Result<Call> call = kChatCompletions.read_call(body);
  ASSERT_FALSE(call.ok()) << body;
  EXPECT_EQ(call.error().status, 400) << body;
  EXPECT_EQ(call.error().blame, Blame::kClient) << body;
  EXPECT_EQ(call.error().param, param) << body;
  EXPECT_NE(call.error().message.find(words), std::string::npos) << body << call.error().message;
  EXPECT_EQ(call.error().message.find(kSecret), std::string::npos) << body;
}

TEST(ChatCall, RefusesWhatIsNoJsonObject) {
  using namespace std::string_literals;
  for (const std::string& body :
       {""s, "{"s, "x=1&y=2"s, "{} {}"s, "{\"a\":NaN}"s, "{\"model\":\"m\",}"s,
        "{\"model\":\"\xff\"}"s, "{\"model\":\"\\ud800\"}"s,
        body_with("\"seed\":123456789012345678901234"),
        body_with("\"x\":" + std::string(64, '[') + std::string(64, ']'))}) {
    expect_refused(body, "", "not valid JSON");
  }
  for (const char* body : {"[]", "null", "7", "\"x\"", "[{\"model\":\"m\"}]"}) {
    expect_refused(body, "", "must be a JSON object");
  }
}

TEST(ChatCall, RefusesWrongTypes) {
  const struct {
    std::string body;
    std::string param;
    std::string words;
  } cases[] = {
      {"{}", "model", "missing"},
      {R"({"messages":[]})", "model", "missing"},
      {R"({"model":null})", "model", "non-empty string"},
      {R"({"model":""})", "model", "non-empty string"},
      {R"({"model":7})", "model", "non-empty string"},
      {R"({"model":["m"]})", "model", "non-empty string"},
      {body_with(R"("stream":"true")"), "stream", "true, false or null"},
      {body_with(R"("stream":1)"), "stream", "true, false or null"},
      {body_with(R"("stream":{})"), "stream", "true, false or null"},
      {body_with(R"("stream_options":[])"), "stream_options", "object or null"},
      {body_with(R"("stream_options":true)"), "stream_options", "object or null"},
      {body_with(R"("stream_options":{"include_usage":"true"})"), "stream_options",
       "include_usage"},
      {body_with(R"("stream_options":{"continuous_usage_stats":1})"), "stream_options",
       "continuous_usage_stats"},
      {body_with(R"("n":0)"), "n", "1 to 1000000"},
      {body_with(R"("n":-1)"), "n", "1 to 1000000"},
      {body_with(R"("n":1.0)"), "n", "1 to 1000000"},
      {body_with(R"("n":"2")"), "n", "1 to 1000000"},
      {body_with(R"("n":1000001)"), "n", "1 to 1000000"},
      {body_with(R"("n":18446744073709551615)"), "n", "1 to 1000000"},
      {body_with(R"("best_of":0)"), "best_of", "1 to 1000000"},
  };
  for (const auto& c : cases) expect_refused(c.body, c.param, c.words);
}

TEST(ChatCall, RefusesDoubledMembers) {
  const std::pair<std::string, std::string> members[] = {
      {"model", R"("m")"}, {"stream", "true"},  {"stream_options", "null"},
      {"n", "1"},          {"best_of", "null"}, {"use_beam_search", "true"}};
  for (const auto& [name, value] : members) {
    const std::string member = "\"" + name + "\":" + value;
    expect_refused("{" + member + ",\"model\":\"m\",\"x\":1," + member + "}", name,
                   "more than once");
  }
  for (const std::string name : {"include_usage", "continuous_usage_stats"}) {
    const std::string member = "\"" + name + "\":true";
    expect_refused(body_with("\"stream_options\":{" + member + "," + member + "}"), name,
                   "more than once");
  }
}

TEST(ChatCall, RefusesOtherSpellings) {
  const std::pair<std::string, std::string> spellings[] = {
      {"Model", "model"},
      {"MODEL", "model"},
      {R"(\u006dodel)", "model"},
      {R"(mode\u006C)", "model"},
      {R"(\u004dodel)", "model"},
      {"Stream", "stream"},
      {"\xC5\xBFtream", "stream"},
      {R"(\u017ftream)", "stream"},
      {R"(\u0073tream)", "stream"},
      {"stream_Options", "stream_options"},
      {R"(stream\u005foptions)", "stream_options"},
      {"N", "n"},
      {R"(\u006e)", "n"},
      {"Best_Of", "best_of"},
      {"use_beam_\xC5\xBF"
       "earch",
       "use_beam_search"},
  };
  for (const auto& [spelling, name] : spellings) {
    expect_refused(body_with("\"" + spelling + "\":null"), name, "spelled exactly so");
    expect_refused("{\"" + spelling + "\":null,\"model\":\"m\"}", name, "spelled exactly so");
  }
  for (const std::string spelling :
       {"Include_usage", R"(include\u005fusage)", R"(\u0069nclude_usage)"}) {
    expect_refused(body_with("\"stream_options\":{\"" + spelling + "\":true}"), "include_usage",
                   "spelled exactly so");
  }
}

TEST(ChatCall, AsksForUsageBySplices) {
  const std::string asked = R"({"include_usage":true})";
  const std::string both = R"({"include_usage":true,"continuous_usage_stats":true})";
  const struct {
    std::string options;  // "" for none
    std::string ask;
    std::string continuous;
  } cases[] = {
      {"", asked, both},
      {"null", asked, both},
      {"{}", asked, both},
      {"{ }", R"({"include_usage":true })",
       R"({"include_usage":true,"continuous_usage_stats":true })"},
      {R"({"include_usage":true})", R"({"include_usage":true})", both},
      {R"({"include_usage":false})", asked, both},
      {R"({"include_usage": null })", R"({"include_usage": true })",
       R"({"include_usage": true,"continuous_usage_stats":true })"},
      {R"({"include_obfuscation":false})", R"({"include_obfuscation":false,"include_usage":true})",
       R"({"include_obfuscation":false,"include_usage":true,"continuous_usage_stats":true})"},
      {R"({"continuous_usage_stats":false,"a":[1e-7],"include_usage":false})",
       R"({"continuous_usage_stats":false,"a":[1e-7],"include_usage":true})",
       R"({"continuous_usage_stats":true,"a":[1e-7],"include_usage":true})"},
      {R"({"continuous_usage_stats":true})",
       R"({"continuous_usage_stats":true,"include_usage":true})",
       R"({"continuous_usage_stats":true,"include_usage":true})"},
      {R"({"include_usage":true,"continuous_usage_stats":true})", both, both},
  };
  for (const auto& c : cases) {
    const auto body = [&](const std::string& options) {
      return body_with("\"stream\":true" +
                       (options.empty() ? "" : ",\"stream_options\":" + options));
    };
    const std::string before = body(c.options);
    const Result<Call> call = kChatCompletions.read_call(before);
    ASSERT_TRUE(call.ok()) << before;
    const auto edit = [&](UsagePolicy policy) {
      return apply_splices(before, kChatCompletions.edit_call(before, *call, policy));
    };
    EXPECT_EQ(edit(kAsk), body(c.ask));
    EXPECT_EQ(edit(kContinuous), body(c.continuous));
    EXPECT_EQ(edit(kAsIs), before);
    EXPECT_EQ(kChatCompletions.edit_call(before, *call, kAsk).size(), call->asks_usage ? 0U : 1U)
        << before;
  }
}

TEST(ChatCall, EditsLeaveEveryOtherByte) {
  const std::string before =
      "{ \"stream\" : true,\r\n\"x\":1.10, \"y\":1e-7,\"model\":\"m\" ,"
      "\"z\":\"\\\"stream_options\\\":{}}\"}\n";
  const Call call = *kChatCompletions.read_call(before);
  EXPECT_EQ(
      apply_splices(before, kChatCompletions.edit_call(before, call, kAsk)),
      before.substr(0, before.size() - 2) + ",\"stream_options\":{\"include_usage\":true}}\n");
}

TEST(ChatCall, OptionsThatStandElsewhereAreNotTouched) {
  const std::string before = body_with(R"("stream":true,"x":{"stream_options":{"a":1}})");
  const Call call = *kChatCompletions.read_call(before);
  EXPECT_EQ(apply_splices(before, kChatCompletions.edit_call(before, call, kAsk)),
            before.substr(0, before.size() - 1) + ",\"stream_options\":{\"include_usage\":true}}");
}

TEST(ChatCall, ACallThatIsNoStreamIsNotEdited) {
  for (const std::string members : {"", R"("stream":false)", R"("stream_options":{})"}) {
    const std::string body = body_with(members);
    const Call call = *kChatCompletions.read_call(body);
    for (const UsagePolicy policy : {kAsk, kAsIs, kContinuous}) {
      EXPECT_TRUE(kChatCompletions.edit_call(body, call, policy).empty()) << body;
    }
  }
}

struct Reply {
  std::string body;
  std::optional<Figure> figure;
  bool is_malformed = false;
  bool saw_error = false;
};

void check(const Reply& reply) {
  const ReplyFacts facts = kChatCompletions.read_reply(reply.body, Call{});
  EXPECT_EQ(facts.final_figure, reply.figure) << reply.body;
  EXPECT_EQ(facts.is_malformed, reply.is_malformed) << reply.body;
  EXPECT_EQ(facts.saw_error, reply.saw_error) << reply.body;
  EXPECT_FALSE(facts.running_figure) << reply.body;
}

TEST(ChatReply, ReadsTopLevelUsage) {
  const std::string text = R"({"index":0,"message":{"content":"\"usage\":{\"prompt_tokens\":1}"}})";
  const Reply replies[] = {
      {R"({"id":"4 OpenAI","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,)"
       R"("total_tokens":21,"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":0},)"
       R"("completion_tokens_details":{"reasoning_tokens":1,"audio_tokens":0,)"
       R"("accepted_prediction_tokens":3,"rejected_prediction_tokens":4}}})",
       Figure{9, 12}},
      {R"({"error":"14 Unauthorized"})", {}, false, true},
      {R"({"id":"16 SGLang","usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3,)"
       R"("prompt_tokens_details":null,"reasoning_tokens":0}})",
       Figure{9, 3}},
      {R"({"id":"20 llama.cpp","choices":[{},{}],)"
       R"("usage":{"completion_tokens":3,"prompt_tokens":9},)"
       R"("timings":{"prompt_n":9,"predicted_n":3}})",
       Figure{9, 3}},
      {R"({"error":"26 TGI","error_type":"validation"})", {}, false, true},
      {"\n\n  \r\n{\"id\":\"51 DeepSeek\",\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,"
       "\"prompt_cache_hit_tokens\":4,\"prompt_cache_miss_tokens\":5}}",
       Figure{9, 3}},
      {R"({"id":"52 Groq","x_groq":{"usage":{"prompt_tokens":9,"completion_tokens":3}}})", {}},
      {R"({"id":"52 xAI","usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":20}})",
       Figure{9, 3}},
      {R"({"id":"54","choices":[)" + text + "]}", {}},
      {R"({"usage":{"prompt_tokens":0,"completion_tokens":0}})", Figure{0, 0}},
      {R"({"error":null,"usage":{"prompt_tokens":0,"completion_tokens":0}})", Figure{0, 0}},
      {R"({"error":{"code":5},"usage":{"prompt_tokens":0,"completion_tokens":0}})", {}, true, true},
      {R"({"usage":{"prompt_tokens":0,"completion_tokens":0},"error":"x"})", {}, true, true},
      {R"({"error":{"code":5},"usage":{"prompt_tokens":9,"completion_tokens":0}})", Figure{9, 0},
       false, true},
      {R"({"us\u0061ge":{"prompt_tokens":9,"completion_tokens":3}})", Figure{9, 3}},
      {R"({"usage":null})", {}},
      {R"({})", {}},
      {R"({"usage":{}})", {}, true},
      {R"({"usage":"9"})", {}, true},
      {R"({"usage":{"prompt_tokens":9}})", {}, true},
      {R"({"usage":{"prompt_tokens":9,"completion_tokens":-3}})", {}, true},
      {R"({"usage":{"prompt_tokens":9,"completion_tokens":3},"usage":null})", {}, true},
      {R"({"usage":{"prompt_tokens":9,"completion_tokens":3},)"
       R"("usage":{"prompt_tokens":9,"completion_tokens":3}})",
       {},
       true},
      {R"([{"usage":{"prompt_tokens":9,"completion_tokens":3}}])", {}},
      {R"({"usage":{"prompt_tokens":9,"completion_tokens":3})", {}},
      {R"({"usage":{"prompt_tokens":9,"completion_tokens":3}} x)", {}},
      {"", {}},
      {"\"usage\"", {}},
      {"<html>usage</html>", {}},
  };
  for (const Reply& reply : replies) check(reply);
}

// What is no strict JSON somewhere else in a reply does not cost its figure.
TEST(ChatReply, ReadsUsageBesideWhatIsNoStrictJson) {
  const std::string figure = R"("usage":{"prompt_tokens":9,"completion_tokens":3})";
  const std::string zeros = R"("usage":{"prompt_tokens":0,"completion_tokens":0})";
  const std::string values[] = {"NaN",
                                "[-Infinity,1]",
                                "1e999",
                                "123456789012345678901234",
                                R"("\ud800")",
                                "\"\xff\xfe\"",
                                R"({"x":"\x"})",
                                "01",
                                std::string(70, '[') + std::string(70, ']')};
  for (const std::string& value : values) {
    const std::string odd =
        R"("choices":[{"message":{"content":"}],\"usage\":{}"},"logprobs":)" + value + "}]";
    const Reply replies[] = {
        {"{" + odd + "," + figure + "}", Figure{9, 3}},
        {" {" + figure + " , " + odd + " } \n", Figure{9, 3}},
        {"{" + odd + R"(,"usage":null})", {}},
        {"{" + odd + R"(,"usage":)" + value + "}", {}, true},
        {"{" + odd + R"(,"usage":{"prompt_tokens":9,"completion_tokens":)" + value + "}}",
         {},
         true},
        {"{" + figure + "," + odd + "," + figure + "}", {}, true},
        {R"({"usage":)" + value + "," + figure + "}", {}, true},
        {"{" + figure + R"(,"usage":)" + value + "}", {}, true},
        {"{" + odd + "," + zeros + "}", Figure{0, 0}},
        {R"({"error":)" + value + "," + zeros + "}", {}, true, true},
        {R"({"error":)" + value + "," + figure + "}", Figure{9, 3}, false, true},
        {"{" + odd + R"(,"x":{)" + figure + "}}", {}},
        {"{" + odd + "," + figure, {}},
        {"{" + odd + "," + figure + "} x", {}},
        {"[{" + odd + "," + figure + "}]", {}},
    };
    for (const Reply& reply : replies) check(reply);
  }
  check({"\xEF\xBB\xBF{" + figure + "}", Figure{9, 3}});
}

}  // namespace
}  // namespace llmproxy
