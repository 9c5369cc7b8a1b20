// Every row of the table "What is billed", and which row wins where two could.
#include "billing/outcome.h"

#include <gtest/gtest.h>

namespace llmproxy {
namespace {

using Kind = Outcome::Kind;
constexpr Figure kFinal{9, 30};
constexpr Figure kRunning{9, 20};

// A stream that came whole, of one choice, with data, but without a figure.
Evidence stream() {
  Evidence evidence;
  evidence.was_sent = true;
  evidence.has_head = true;
  evidence.status = 200;
  evidence.is_stream = true;
  evidence.ended_normally = true;
  evidence.facts.data_events = 5;
  evidence.facts.saw_terminal = true;
  return evidence;
}

Evidence plain() {
  Evidence evidence = stream();
  evidence.is_stream = false;
  evidence.facts = ReplyFacts{};
  return evidence;
}

template <class... Changes>
Evidence with(Evidence evidence, Changes... changes) {
  (changes(evidence), ...);
  return evidence;
}

void has_final(Evidence& e) {
  e.facts.final_figure = kFinal;
}
void has_running(Evidence& e) {
  e.facts.running_figure = kRunning;
}
void is_zero(Evidence& e) {
  e.facts.final_figure = Figure{0, 0};
}
void is_cut(Evidence& e) {
  e.ended_normally = e.facts.saw_terminal = false;
}
void saw_error(Evidence& e) {
  e.facts.saw_error = true;
}
void is_malformed(Evidence& e) {
  e.facts.is_malformed = true;
}
void is_continuous(Evidence& e) {
  e.policy = UsagePolicy::kContinuous;
}
void is_as_is(Evidence& e) {
  e.policy = UsagePolicy::kAsIs;
}
void has_two_choices(Evidence& e) {
  e.choices = 2;
}
void has_no_data(Evidence& e) {
  e.facts.data_events = 0;
}
void has_other_bytes(Evidence& e) {
  e.facts.saw_other_bytes = true;
}
void is_encoded(Evidence& e) {
  e.is_encoded = true;
}
void is_abandoned(Evidence& e) {
  e.is_abandoned = true;
}
void is_too_long(Evidence& e) {
  e.is_too_long = true;
}
void is_unrecorded(Evidence& e) {
  e.is_unrecorded = true;
}
void has_no_head(Evidence& e) {
  e = Evidence{.was_sent = true};
}
void was_never_sent(Evidence& e) {
  e = Evidence{};
}
auto status(int code) {
  return [code](Evidence& e) { e.status = code; };
}

struct Row {
  std::string name;
  Evidence evidence;
  Kind kind;
  Figure figure{};
  bool is_warning = false;
};

const Row kRows[] = {
    // a final figure, whatever else: billed
    {"stream, final", with(stream(), has_final), Kind::kBilled, kFinal},
    {"plain, final", with(plain(), has_final), Kind::kBilled, kFinal},
    {"final and running", with(stream(), has_final, has_running, is_continuous), Kind::kBilled,
     kFinal},
    {"cut after it", with(stream(), has_final, is_cut), Kind::kBilled, kFinal},
    {"error after it", with(stream(), has_final, saw_error), Kind::kBilled, kFinal},
    {"an explicit zero", with(stream(), is_zero), Kind::kBilled, Figure{0, 0}},
    {"an explicit zero, plain", with(plain(), is_zero), Kind::kBilled, Figure{0, 0}},
    {"as is", with(stream(), has_final, is_as_is), Kind::kBilled, kFinal},
    {"400 with a figure", with(plain(), has_final, status(400)), Kind::kBilled, kFinal},
    {"500 with a figure", with(stream(), has_final, status(500)), Kind::kBilled, kFinal},
    {"204 with a figure", with(plain(), has_final, status(204)), Kind::kBilled, kFinal},

    // running figures only: billed from a continuous backend with one choice
    {"running", with(stream(), has_running, is_continuous), Kind::kBilled, kRunning},
    {"running, cut", with(stream(), has_running, is_continuous, is_cut), Kind::kBilled, kRunning},
    {"running, error", with(stream(), has_running, is_continuous, saw_error), Kind::kBilled,
     kRunning},
    {"running, ask", with(stream(), has_running), Kind::kUnresolved},
    {"running, as is", with(stream(), has_running, is_as_is), Kind::kUnresolved},
    {"running, two choices", with(stream(), has_running, is_continuous, has_two_choices),
     Kind::kUnresolved},
    {"running, 500", with(stream(), has_running, is_continuous, status(500)), Kind::kBilled,
     kRunning},
    {"running, 500, ask", with(stream(), has_running, status(500)), Kind::kUnresolved},

    // never sent; or not 2xx, without a figure: free
    {"never sent", with(stream(), was_never_sent), Kind::kFree},
    {"400", with(plain(), status(400)), Kind::kFree},
    {"300", with(plain(), status(300)), Kind::kFree},
    {"199", with(plain(), status(199)), Kind::kFree},
    {"503, stream", with(stream(), status(503)), Kind::kFree},
    {"400, usage that is no figure", with(plain(), is_malformed, status(400)), Kind::kFree},
    {"400, cut", with(plain(), is_cut, status(400)), Kind::kFree},
    {"500, too long", with(plain(), is_too_long, status(500)), Kind::kFree},

    // sent, no head: free
    {"no head", with(stream(), has_no_head), Kind::kFree},

    // could not be recorded, and so was not sent: free
    {"unrecorded", with(plain(), has_final, is_unrecorded), Kind::kFree},
    {"unrecorded, no figure", with(plain(), is_unrecorded), Kind::kFree},
    {"unrecorded stream", with(stream(), is_unrecorded), Kind::kFree},

    // 2xx stream without a data event: free with a warning
    {"no data", with(stream(), has_no_data), Kind::kFree, {}, true},
    {"no data, cut", with(stream(), has_no_data, is_cut), Kind::kFree, {}, true},
    {"no data, two choices",
     with(stream(), has_no_data, has_two_choices, is_cut),
     Kind::kFree,
     {},
     true},

    {"no data, encoded", with(stream(), has_no_data, is_encoded), Kind::kFree, {}, true},
    {"400, encoded", with(plain(), is_encoded, status(400)), Kind::kFree},
    {"500, encoded stream", with(stream(), has_no_data, has_other_bytes, is_encoded, status(500)),
     Kind::kFree},

    // anything else: unresolved
    {"bytes that are no events", with(stream(), has_no_data, has_other_bytes), Kind::kUnresolved},
    {"bytes that are no events, cut", with(stream(), has_no_data, has_other_bytes, is_cut),
     Kind::kUnresolved},
    {"encoded stream", with(stream(), has_no_data, has_other_bytes, is_encoded), Kind::kUnresolved},
    {"encoded, plain", with(plain(), is_encoded), Kind::kUnresolved},
    {"stream, no figure", stream(), Kind::kUnresolved},
    {"stream, no figure, cut", with(stream(), is_cut), Kind::kUnresolved},
    {"stream, error only", with(stream(), saw_error), Kind::kUnresolved},
    {"plain, no figure", plain(), Kind::kUnresolved},
    {"plain, no figure, cut", with(plain(), is_cut), Kind::kUnresolved},
    {"malformed", with(stream(), is_malformed), Kind::kUnresolved},
    {"malformed, plain", with(plain(), is_malformed), Kind::kUnresolved},
    // zeros after an error event are malformed, too
    {"malformed after a good one", with(stream(), has_final, is_malformed), Kind::kUnresolved},
    {"malformed after a running one", with(stream(), has_running, is_continuous, is_malformed),
     Kind::kUnresolved},
    {"malformed after a good one, 500", with(stream(), has_final, is_malformed, status(500)),
     Kind::kUnresolved},
    {"a bug in the middle of a stream", with(stream(), is_abandoned), Kind::kUnresolved},
    {"a bug, with a figure", with(plain(), is_abandoned, has_final), Kind::kUnresolved},
    {"too long", with(plain(), is_too_long), Kind::kUnresolved},
    {"too long, with a figure", with(plain(), is_too_long, has_final), Kind::kUnresolved},

    // several choices: only at the normal end
    {"two choices", with(stream(), has_final, has_two_choices), Kind::kBilled, kFinal},
    {"two choices, plain", with(plain(), has_final, has_two_choices), Kind::kBilled, kFinal},
    {"two choices, cut", with(stream(), has_final, has_two_choices, is_cut), Kind::kUnresolved},
    {"two choices, plain, cut", with(plain(), has_final, has_two_choices, is_cut),
     Kind::kUnresolved},
    {"two choices, no figure", with(stream(), has_two_choices), Kind::kUnresolved},
};

TEST(Outcome, IsTheTable) {
  for (const Row& row : kRows) {
    const Outcome outcome = decide_outcome(row.evidence);
    EXPECT_EQ(outcome.kind, row.kind) << row.name;
    EXPECT_EQ(outcome.figure, row.figure) << row.name;
    EXPECT_EQ(outcome.is_warning, row.is_warning) << row.name;
    EXPECT_FALSE(outcome.reason.empty()) << row.name;
  }
}

TEST(Outcome, TellsTheFreeOnesApart) {
  const std::string_view never_sent = decide_outcome(with(stream(), was_never_sent)).reason;
  const std::string_view no_head = decide_outcome(with(stream(), has_no_head)).reason;
  const std::string_view refused = decide_outcome(with(plain(), status(400))).reason;
  EXPECT_NE(never_sent, no_head);
  EXPECT_NE(never_sent, refused);
  EXPECT_NE(no_head, refused);
}

TEST(Outcome, TellsThatAReplyWasCompressed) {
  EXPECT_EQ(decide_outcome(with(plain(), is_encoded)).reason, "reply was compressed");
  EXPECT_EQ(decide_outcome(with(stream(), has_no_data, has_other_bytes, is_encoded)).reason,
            "reply was compressed");
}

}  // namespace
}  // namespace llmproxy
