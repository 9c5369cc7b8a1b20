// Reads /proc; asks git for the commit.
#include "figures.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <thread>

#include "process.h"

namespace llmproxy::bench {

void Samples::add_all(const Samples& other) {
  values_.insert(values_.end(), other.values_.begin(), other.values_.end());
}

double Samples::percentile(double percent) const {
  if (values_.empty()) return 0;
  std::vector<double> sorted = values_;
  const double rank = std::ceil(percent / 100 * static_cast<double>(sorted.size()));
  const auto at = std::max<ptrdiff_t>(static_cast<ptrdiff_t>(rank) - 1, 0);
  std::nth_element(sorted.begin(), sorted.begin() + at, sorted.end());
  return sorted[static_cast<size_t>(at)];
}

std::string spread(const Samples& samples, int digits) {
  if (samples.empty()) return "";
  return fmt::format("{:.{}f} ({:.{}f}..{:.{}f})", samples.median(), digits, samples.min(), digits,
                     samples.max(), digits);
}

void Table::print() const {
  std::vector<size_t> widths(rows_.front().size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (size_t line = 0; line < rows_.size(); ++line) {
    for (size_t i = 0; i < widths.size(); ++i) {
      fmt::print("| {:<{}} ", i < rows_[line].size() ? rows_[line][i] : "", widths[i]);
    }
    fmt::print("|\n");
    if (line > 0) continue;
    for (const size_t width : widths) fmt::print("|{:-<{}}", "", width + 2);
    fmt::print("|\n");
  }
  std::fflush(stdout);
}

std::string describe_machine() {
  const std::string cpuinfo = read_file("/proc/cpuinfo");
  const size_t name = cpuinfo.find("model name");
  const size_t begin = name == std::string::npos ? name : cpuinfo.find(": ", name);
  const std::string model = begin == std::string::npos
                                ? "unknown processor"
                                : cpuinfo.substr(begin + 2, cpuinfo.find('\n', begin) - begin - 2);
  utsname kernel{};
  uname(&kernel);
  const std::string load = read_file("/proc/loadavg");
  return fmt::format("{} cores, {}, {} {}; load at the start {}",
                     std::thread::hardware_concurrency(), model, kernel.sysname, kernel.release,
                     load.substr(0, load.find(' ')));
}

std::string describe_commit() {
  const TemporaryDirectory directory;
  const std::string commit = output_of({"git", "rev-parse", "--short", "HEAD"}, directory);
  if (commit.empty()) return "unknown";
  const std::string changes =
      output_of({"git", "status", "--porcelain", "--untracked-files=no"}, directory);
  return changes.empty() ? commit : commit + " with changes";
}

}  // namespace llmproxy::bench
