// What can be asked of a Config once it is loaded: a backend, a difference, a text for the log.
// Reading the file is load.cc.
#include "config/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/settings.h"

namespace llmproxy {

namespace {

// Values of these MongoDB options are secrets too, wherever they stand in an option's name.
constexpr std::string_view kSecretOptions[] = {"password", "token", "secret"};

bool is_secret_option(std::string_view option) {
  std::string lower(option);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  return std::any_of(std::begin(kSecretOptions), std::end(kSecretOptions),
                     [&](std::string_view word) { return lower.find(word) != std::string::npos; });
}

// "a=1&somePassword=x" with the values of secret options replaced.
std::string mask_options(std::string_view options) {
  std::string masked;
  while (!options.empty()) {
    const size_t end = options.find('&');
    const std::string_view option = options.substr(0, end);
    masked += is_secret_option(option) ? fmt::format("{}=***", option.substr(0, option.find('=')))
                                       : std::string(option);
    if (end == std::string_view::npos) break;
    masked += '&';
    options.remove_prefix(end + 1);
  }
  return masked;
}

}  // namespace

const Backend* Config::find_backend(std::string_view model) const {
  const auto found = backends.find(model);
  return found == backends.end() ? nullptr : &found->second;
}

std::string format_problem(std::string_view path, const ConfigProblem& problem) {
  std::string text(path);
  if (problem.line > 0) text += fmt::format(":{}:{}", problem.line, problem.column);
  text += problem.is_error ? ": error: " : ": warning: ";
  if (!problem.key.empty()) text += problem.key + ": ";
  return text + problem.text;
}

ConfigChange compare_configs(const Config& before, const Config& after) {
  ConfigChange change;
  for (const auto& [name, backend] : after.backends) {
    const Backend* const old = before.find_backend(name);
    if (old == nullptr) {
      change.added.push_back(name);
    } else if (*old != backend) {
      change.changed.push_back(name);
    }
  }
  for (const auto& [name, backend] : before.backends) {
    if (after.find_backend(name) == nullptr) change.removed.push_back(name);
  }
  for (const Setting& setting : all_settings()) {
    const bool is_same = std::visit(
        [&](auto member) { return setting_in(before, member) == setting_in(after, member); },
        setting.member);
    if (is_same) continue;
    (setting.is_live ? change.live : change.needs_restart).push_back(setting.dotted_key());
  }
  return change;
}

std::shared_ptr<const Config> apply_reload(const Config& before, const Config& after) {
  auto config = std::make_shared<Config>(after);
  for (const Setting& setting : all_settings()) {
    if (setting.is_live) continue;
    std::visit([&](auto member) { setting_in(*config, member) = setting_in(before, member); },
               setting.member);
  }
  return config;
}

std::string mask_uri(std::string_view uri) {
  if (uri.starts_with("sqlite:")) return std::string(uri);  // a path: no user, no options
  const size_t scheme = uri.find("://");
  const size_t start = scheme == std::string_view::npos ? 0 : scheme + 3;
  std::string masked;
  // The last @ of all, and not only of the authority: a password that should have been escaped may
  // hold any character. Rather too much is hidden than too little.
  const size_t at = uri.rfind('@');
  if (at != std::string_view::npos && at >= start) {
    const size_t colon = uri.substr(0, at).find(':', start);
    masked = uri.substr(0, colon == std::string_view::npos ? at : colon);
    if (colon != std::string_view::npos) masked += ":***";
    uri.remove_prefix(at);
  }
  const size_t options = std::min(uri.find('?'), uri.size());
  masked += uri.substr(0, options);
  if (options < uri.size()) masked += '?' + mask_options(uri.substr(options + 1));
  return masked;
}

}  // namespace llmproxy
