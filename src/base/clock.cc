// The two clocks, and times as text. Knows UTC and fixed offsets only, no time zones.
#include "base/clock.h"

#include <algorithm>

namespace llmproxy {

namespace {

using std::chrono::sys_days;

constexpr int64_t kDayMs = 86'400'000;

constexpr WallMs midnight_ms(int year, unsigned month, unsigned day) {
  return int64_t{sys_days(std::chrono::year(year) / static_cast<int>(month) / static_cast<int>(day))
                     .time_since_epoch()
                     .count()} *
         kDayMs;
}

constexpr WallMs kYear0 = midnight_ms(0, 1, 1);
constexpr WallMs kYear9999End = midnight_ms(10000, 1, 1) - 1;

// Takes a text apart from the left. After the first mismatch everything else fails too.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  bool ok() const { return ok_; }
  bool at_end() const { return text_.empty(); }
  bool next_is(char c) const { return !text_.empty() && text_[0] == c; }

  // Exactly `width` digits whose value lies in [min, max].
  int number(size_t width, int min, int max) {
    int value = 0;
    for (size_t i = 0; i < width; ++i) value = value * 10 + digit();
    if (value < min || value > max) ok_ = false;
    return value;
  }

  // One digit or more: the first three are milliseconds, the rest is cut.
  int fraction_ms() {
    int value = digit() * 100;
    for (int weight = 10; next_is_digit(); weight /= 10) value += digit() * weight;
    return value;
  }

  void expect(char c) {
    if (!skip(c)) ok_ = false;
  }

  bool skip(char c) {
    if (!next_is(c)) return false;
    text_.remove_prefix(1);
    return true;
  }

 private:
  bool next_is_digit() const { return !text_.empty() && text_[0] >= '0' && text_[0] <= '9'; }

  int digit() {
    if (!next_is_digit()) {
      ok_ = false;
      return 0;
    }
    const int value = text_[0] - '0';
    text_.remove_prefix(1);
    return value;
  }

  std::string_view text_;
  bool ok_ = true;
};

int64_t scan_zone_ms(Scanner& scan) {
  if (scan.at_end() || scan.skip('Z')) return 0;
  const int sign = scan.skip('-') ? -1 : 1;
  if (sign > 0) scan.expect('+');
  const int hours = scan.number(2, 0, 23);
  scan.expect(':');
  const int minutes = scan.number(2, 0, 59);
  return int64_t{sign} * (hours * 60 + minutes) * 60'000;
}

}  // namespace

WallMs wall_now_ms() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<Milliseconds>(now).count();
}

MonotonicTime monotonic_now() {
  return std::chrono::steady_clock::now();
}

std::string format_utc(WallMs time) {
  time = std::clamp(time, kYear0, kYear9999End);
  const int64_t day = (time - kYear0) / kDayMs;
  const int64_t ms = (time - kYear0) % kDayMs;
  const std::chrono::year_month_day date(sys_days(std::chrono::days(day + kYear0 / kDayMs)));
  std::string text = "0000-00-00T00:00:00.000Z";
  const auto put = [&](size_t end, int64_t value) {  // its last digit before `end`
    for (; value > 0; value /= 10) text[--end] = static_cast<char>('0' + value % 10);
  };
  put(4, static_cast<int>(date.year()));
  put(7, static_cast<unsigned>(date.month()));
  put(10, static_cast<unsigned>(date.day()));
  put(13, ms / 3'600'000);
  put(16, ms / 60'000 % 60);
  put(19, ms / 1000 % 60);
  put(23, ms % 1000);
  return text;
}

std::optional<WallMs> parse_utc(std::string_view text) {
  Scanner scan(text);
  const int year = scan.number(4, 0, 9999);
  scan.expect('-');
  const int month = scan.number(2, 1, 12);
  scan.expect('-');
  const int day = scan.number(2, 1, 31);
  if (!scan.ok()) return std::nullopt;
  if (!(std::chrono::year(year) / month / day).ok()) return std::nullopt;
  WallMs time = midnight_ms(year, static_cast<unsigned>(month), static_cast<unsigned>(day));
  if (scan.at_end()) return time;

  if (!scan.skip(' ')) scan.expect('T');
  time += scan.number(2, 0, 23) * int64_t{3'600'000};
  scan.expect(':');
  time += scan.number(2, 0, 59) * int64_t{60'000};
  if (scan.skip(':')) {
    time += scan.number(2, 0, 59) * int64_t{1000};
    if (scan.skip('.')) time += scan.fraction_ms();
  }
  time -= scan_zone_ms(scan);
  if (!scan.ok() || !scan.at_end()) return std::nullopt;
  return time;
}

}  // namespace llmproxy
