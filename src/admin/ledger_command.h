// What a person asks of a ledger that is open, and the answer: as values, and as the lines of the
// control socket. The command line runs the same on a stopped ledger that it opened itself.
//
//   {"command":"status"}
//   {"command":"resolve","id":ID,"prompt_n":N,"completion_n":N}   or "free":true for the figures
//   {"command":"requeue","id":ID}                                 or "all":true for the id
//   {"command":"rebill","id":ID}
//   {"status":200,"message":TEXT}
//   {"status":200,"message":TEXT,"counts":{NAME:N,...}}           of status
//
// The status of an answer is 200, 400 for what is no command, or that of Ledger's Error.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/usage.h"
#include "billing/ledger.h"
#include "billing/object_id.h"

namespace llmproxy {

struct LedgerCommand {
  enum class Kind : uint8_t { kStatus, kResolve, kRequeue, kRebill };
  Kind kind = Kind::kStatus;
  std::optional<ObjectId> id;    // nothing: all (kRequeue only)
  std::optional<Figure> figure;  // kResolve; nothing: nothing is owed
};

struct LedgerAnswer {
  int status = 200;
  std::string message;   // for people
  std::string counts{};  // a JSON object; "" of anything but status

  bool ok() const { return status == 200; }
};

LedgerAnswer run_command(Ledger& ledger, const LedgerCommand& command);

std::string write_command(const LedgerCommand& command);
std::optional<LedgerCommand> read_command(std::string_view line);
std::string write_answer(const LedgerAnswer& answer);
std::optional<LedgerAnswer> read_answer(std::string_view line);

// A line of the control socket to its answer.
std::string answer_line(Ledger& ledger, std::string_view line);

}  // namespace llmproxy
