// Type and bounds of single values, and the texts that say what was expected.
#include "config/section.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/text.h"

namespace llmproxy {

namespace {

constexpr size_t kTypoDistanceMax = 2;
constexpr std::array<std::string_view, 5> kLevels{"debug", "info", "warning", "error", "critical"};

std::string to_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  return lower;
}

// Insertions, deletions and replacements that make `a` into `b` (Levenshtein).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({replaced, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row.back();
}

// The known key that `key` is a slip of the pen for; "" when there is none.
std::string_view closest_key(std::string_view key, const std::vector<std::string_view>& known) {
  std::string_view closest;
  size_t best = kTypoDistanceMax + 1;
  for (const std::string_view candidate : known) {
    if (key.size() > candidate.size() + kTypoDistanceMax) continue;
    const size_t distance = edit_distance(to_lower(key), candidate);
    if (distance < best && distance < candidate.size()) {
      best = distance;
      closest = candidate;
    }
  }
  return closest;
}

std::string where_it_belongs(std::string_view key) {
  for (const Setting& setting : all_settings()) {
    if (setting.key != key) continue;
    if (setting.table.empty()) return "at the top of the file, before the first [table]";
    return fmt::format("in [{}]", setting.table);
  }
  return "";
}

std::string unknown_key_text(std::string_view key, const std::vector<std::string_view>& known,
                             bool setting_first) {
  const std::string_view meant = closest_key(key, known);
  const std::string place = where_it_belongs(key);
  if (!place.empty() && (setting_first || meant.empty())) {
    return fmt::format("unknown key here; it belongs {}", place);
  }
  if (!meant.empty()) return fmt::format("unknown key; did you mean `{}`?", meant);
  return "unknown key";
}

}  // namespace

std::string written_key(std::string_view key) {
  const auto is_bare = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_';
  };
  if (!key.empty() && std::all_of(key.begin(), key.end(), is_bare)) return std::string(key);
  std::string quoted = "\"";
  while (!key.empty()) {
    size_t length = printable_length(key);
    if (length == 0) {
      // A key is UTF-8, so a control character is one byte, or a C2 and the code itself.
      length = key.size() > 1 && key[0] == '\xc2' ? 2 : 1;
      quoted += fmt::format("\\u{:04x}", static_cast<unsigned char>(key[length - 1]));
    } else {
      if (key[0] == '"' || key[0] == '\\') quoted += '\\';
      quoted += key.substr(0, length);
    }
    key.remove_prefix(length);
  }
  return quoted + '"';
}

std::string_view type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "a whole number";
    case toml::node_type::floating_point:
      return "a number with a fraction";
    case toml::node_type::boolean:
      return "true or false";
    default:
      return "a date or time";
  }
}

std::string Section::dotted(std::string_view key) const {
  return name_.empty() ? written_key(key) : name_ + "." + written_key(key);
}

void Section::report_at(const toml::source_position& place, std::string key, std::string text,
                        bool is_error) {
  problems_.push_back({is_error, static_cast<int>(place.line), static_cast<int>(place.column),
                       std::move(key), std::move(text)});
}

void Section::report(std::string_view key, std::string text, bool is_error) {
  const toml::node* const node = table_.get(key);
  const toml::node& blamed = node == nullptr ? static_cast<const toml::node&>(table_) : *node;
  report_at(blamed.source().begin, dotted(key), std::move(text), is_error);
}

void Section::report_key(const toml::key& key, std::string text) {
  report_at(key.source().begin, dotted(key.str()), std::move(text), true);
}

void Section::report_table(const toml::source_region& place, std::string text) {
  report_at(place.begin, name_, std::move(text), true);
}

const toml::table& Section::sub_table(std::string_view key) {
  static const toml::table empty;
  const toml::node* const node = table_.get(key);
  if (node == nullptr) return empty;
  if (const toml::table* const table = node->as_table()) return *table;
  report(key,
         fmt::format("expected a table, written [{}], found {}", dotted(key), type_name(*node)));
  return empty;
}

void Section::get_setting(const Setting& setting, Config& config) {
  const auto get_into = [&](auto& target) {
    using Target = std::remove_reference_t<decltype(target)>;
    if constexpr (std::is_same_v<Target, std::string>) {
      get_string(setting, target);
    } else if constexpr (std::is_same_v<Target, LogLevel>) {
      get_level(setting, target);
    } else if constexpr (std::is_same_v<Target, Milliseconds>) {
      get_seconds(setting, target);
    } else {
      target = static_cast<Target>(get_whole_number(setting, static_cast<int64_t>(target)));
    }
  };
  std::visit([&](auto member) { get_into(setting_in(config, member)); }, setting.member);
}

int64_t Section::get_whole_number(const Setting& setting, int64_t unchanged) {
  const std::string expected = fmt::format("expected a whole number, {}", setting.bounds());
  const int64_t* const value = get<int64_t>(setting.key, expected);
  if (value == nullptr) return unchanged;
  if (*value >= std::llround(setting.min) && *value <= std::llround(setting.max)) return *value;
  report(setting.key, fmt::format("{}, found {}", expected, *value));
  return unchanged;
}

void Section::get_seconds(const Setting& setting, Milliseconds& target) {
  const toml::node* const node = table_.get(setting.key);
  if (node == nullptr) return;
  const std::string expected = fmt::format("expected seconds, {}", setting.bounds());
  const auto get_number = [&](const auto& number) {
    const auto value = static_cast<double>(number);
    if (!(value >= setting.min && value <= setting.max)) {  // so written, it refuses nan
      return report(setting.key, fmt::format("{}, found {}", expected, number));
    }
    target = Milliseconds(std::llround(value * 1000));
  };
  if (const auto* const whole = node->as_integer()) return get_number(whole->get());
  if (const auto* const fraction = node->as_floating_point()) return get_number(fraction->get());
  report(setting.key, fmt::format("{}, found {}", expected, type_name(*node)));
}

void Section::get_string(const Setting& setting, std::string& target) {
  const std::string* const value = get<std::string>(setting.key, setting.expected);
  if (value == nullptr) return;
  if (!setting.is_allowed(*value)) return report(setting.key, std::string(setting.expected));
  target = *value;
}

void Section::get_level(const Setting& setting, LogLevel& target) {
  static constexpr std::string_view kExpected =
      "expected \"DEBUG\", \"INFO\", \"WARNING\", \"ERROR\" or \"CRITICAL\"";
  const std::string* const value = get<std::string>(setting.key, kExpected);
  if (value == nullptr) return;
  for (size_t level = 0; level < kLevels.size(); ++level) {
    if (to_lower(*value) != kLevels[level]) continue;
    target = static_cast<LogLevel>(level);
    return;
  }
  report(setting.key, std::string(kExpected));
}

void Section::report_unknown_keys(const std::vector<std::string_view>& known, bool setting_first) {
  for (auto&& [key, node] : table_) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
    report_key(key, unknown_key_text(key.str(), known, setting_first));
  }
}

}  // namespace llmproxy
