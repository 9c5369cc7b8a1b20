// Streams, and not fmt::print, which throws when nothing can be written.
#include "cli/print.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "base/text.h"

namespace llmproxy {
namespace {

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;  // not a later byte of a UTF-8 sequence
  }));
}

}  // namespace

int fail(std::ostream& err, int code, std::string_view why) {
  err << "error: " << why << '\n';
  return code;
}

std::string printable(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const size_t length = printable_length(text);
    shown += length > 0 ? text.substr(0, length) : "?";
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return shown;
}

std::string json_for_terminal(std::string json) {
  for (size_t at = json.find('\xc2'); at != std::string::npos; at = json.find('\xc2', at + 1)) {
    const auto code = static_cast<unsigned char>(json[at + 1]);
    if (code < 0xa0) json.replace(at, 2, fmt::format("\\u{:04x}", code));
  }
  return json;
}

void print_table(const std::vector<std::vector<std::string>>& rows, std::ostream& out) {
  std::vector<std::vector<std::string>> shown;
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    auto& cells = shown.emplace_back();
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) {
      cells.push_back(printable(row[i]));
      widths[i] = std::max(widths[i], characters(cells[i]));
    }
  }
  for (const auto& cells : shown) {
    std::string line;
    for (size_t i = 0; i < cells.size(); ++i)
      line += cells[i] + std::string(widths[i] - characters(cells[i]) + 2, ' ');
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  }
}

int flush_or_fail(std::ostream& out, std::ostream& err, std::string_view what) {
  out.flush();
  return out ? 0 : fail(err, kExitOutput, fmt::format("{} could not be printed", what));
}

}  // namespace llmproxy
