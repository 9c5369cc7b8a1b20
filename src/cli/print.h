// What subcommands print: tables for people, JSON for scripts, complaints. Nothing that comes from
// elsewhere moves the cursor of who reads it.
#pragma once

#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace llmproxy {

constexpr int kExitNotFound = 1;      // no such id, or what was asked for is not so
constexpr int kExitUsage = 64;        // sysexits.h EX_USAGE
constexpr int kExitUnavailable = 69;  // sysexits.h EX_UNAVAILABLE: the database did not answer
constexpr int kExitOutput = 74;       // sysexits.h EX_IOERR: stdout cannot be written
constexpr int kExitTryAgain = 75;     // sysexits.h EX_TEMPFAIL

// "error: WHY" to `err`. The code.
int fail(std::ostream& err, int code, std::string_view why);

// Control characters and what is no UTF-8 as "?".
std::string printable(std::string_view text);

// JSON that says the same to a reader of JSON: terminals obey the control characters U+0080 to
// U+009F too, so they are escaped.
std::string json_for_terminal(std::string json);

// Columns of the width of their longest cell. Cells are made printable.
void print_table(const std::vector<std::vector<std::string>>& rows, std::ostream& out);

// 0, or 74 when `out` took not all of it: "WHAT could not be printed".
int flush_or_fail(std::ostream& out, std::ostream& err, std::string_view what);

}  // namespace llmproxy
