// One table of the TOML file, with getters that check type and bounds and collect what is wrong.
// Internal to config/: the only header that knows the TOML library.
#pragma once

#include <fmt/format.h>
#include <toml++/toml.h>

#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "config/settings.h"

namespace llmproxy {

using Problems = std::vector<ConfigProblem>;

// `key` as it would be written in TOML: bare where that is allowed, else quoted.
std::string written_key(std::string_view key);

std::string_view type_name(const toml::node& node);

// Lives shorter than its table and its problems. Getters leave their target alone when the key is
// missing or wrong, and report the latter.
class Section {
 public:
  Section(const toml::table& table, std::string name, Problems& problems)
      : table_(table), name_(std::move(name)), problems_(problems) {}

  const toml::table& table() const { return table_; }
  bool has(std::string_view key) const { return table_.contains(key); }
  std::string dotted(std::string_view key) const;

  // At the value of `key`, or at the table when the key is missing.
  void report(std::string_view key, std::string text, bool is_error = true);
  void report_key(const toml::key& key, std::string text);                // at the key itself
  void report_table(const toml::source_region& place, std::string text);  // names the table only

  // The value of `key` when it is there and a T.
  template <class T>
  const T* get(std::string_view key, std::string_view expected) {
    const toml::node* const node = table_.get(key);
    if (node == nullptr) return nullptr;
    const auto* const value = node->as<T>();
    if (value == nullptr) report(key, fmt::format("{}, found {}", expected, type_name(*node)));
    return value == nullptr ? nullptr : &value->get();
  }
  // An empty table when `key` is missing or no table.
  const toml::table& sub_table(std::string_view key);

  void get_setting(const Setting& setting, Config& config);

  // Each key that is not in `known`, with what was probably meant: the key of that name in another
  // table, if `setting_first`, else first the most similar one in `known`.
  void report_unknown_keys(const std::vector<std::string_view>& known, bool setting_first);

 private:
  void report_at(const toml::source_position& place, std::string key, std::string text,
                 bool is_error);
  int64_t get_whole_number(const Setting& setting, int64_t unchanged);
  void get_seconds(const Setting& setting, Milliseconds& target);
  void get_string(const Setting& setting, std::string& target);
  void get_level(const Setting& setting, LogLevel& target);

  const toml::table& table_;
  const std::string name_;
  Problems& problems_;
};

}  // namespace llmproxy
