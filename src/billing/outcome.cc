// The table "What is billed", row by row.
#include "billing/outcome.h"

namespace llmproxy {

namespace {

Outcome billed(const Figure& figure, std::string_view reason) {
  return {.kind = Outcome::Kind::kBilled, .figure = figure, .reason = reason};
}

Outcome free_of_charge(std::string_view reason, bool is_warning = false) {
  return {.kind = Outcome::Kind::kFree, .reason = reason, .is_warning = is_warning};
}

Outcome unresolved(std::string_view reason) {
  return {.kind = Outcome::Kind::kUnresolved, .reason = reason};
}

}  // namespace

Outcome decide_outcome(const Evidence& evidence) {
  const ReplyFacts& facts = evidence.facts;
  if (!evidence.was_sent) return free_of_charge("never sent");
  if (!evidence.has_head) return free_of_charge("no reply head");
  if (evidence.is_unrecorded) return free_of_charge("could not be recorded");
  if (evidence.is_abandoned) return unresolved("ended by a bug of the proxy");

  const bool is_success = evidence.status >= 200 && evidence.status <= 299;
  const bool has_figure = facts.final_figure || facts.running_figure;
  if (!is_success && !has_figure) return free_of_charge("status without a figure");
  if (evidence.is_too_long) return unresolved("reply too long to read");
  // After a good one, too: the backend's last word on the cost says nothing (zeros after an error).
  if (facts.is_malformed) return unresolved("malformed figure");

  const bool is_one_choice = evidence.choices <= 1;
  if (has_figure && !is_one_choice && !evidence.ended_normally) {
    return unresolved("several choices, cut before their end");
  }
  if (facts.final_figure) return billed(*facts.final_figure, "final figure");
  const bool is_continuous = evidence.policy == UsagePolicy::kContinuous;
  if (facts.running_figure && is_continuous && is_one_choice) {
    return billed(*facts.running_figure, "running figure");
  }
  const bool is_stream_without_data = evidence.is_stream && facts.data_events == 0;
  if (is_stream_without_data && !facts.saw_other_bytes) {
    return free_of_charge("stream without a data event", true);
  }
  if (evidence.is_encoded) return unresolved("reply was compressed");
  if (is_stream_without_data) return unresolved("stream of bytes that are no events");
  if (facts.running_figure) return unresolved("running figures only");
  return unresolved("no figure");
}

}  // namespace llmproxy
