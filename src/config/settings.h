// The table of all settings but the backends: where each stands in the file, what it may be, and
// whether a reload puts it into effect. Loading, comparing and reloading all go by this one table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "config/config.h"

namespace llmproxy {

struct Setting {
  using Member = std::variant<std::string Config::*, LogLevel Config::*, uint16_t Config::*,
                              unsigned Config::*, size_t Config::*, Milliseconds Config::*,
                              size_t Limits::*, Milliseconds Limits::*>;

  std::string_view table;  // "" is the top of the file
  std::string_view key;
  bool is_live;  // takes effect at a reload; else needs a restart
  Member member;
  // Of numbers; times are in seconds. Both are allowed values.
  double min = 0;
  double max = 0;
  // Of texts: whether one is allowed, and what to say when it is not.
  bool (*is_allowed)(std::string_view) = nullptr;
  std::string_view expected = {};

  std::string dotted_key() const;
  std::string bounds() const;  // "MIN to MAX"
};

std::span<const Setting> all_settings();

// The setting's place in a config: `config` may be const.
template <class C, class T>
auto& setting_in(C& config, T Config::*member) {
  return config.*member;
}
template <class C, class T>
auto& setting_in(C& config, T Limits::*member) {
  return config.limits.*member;
}

}  // namespace llmproxy
