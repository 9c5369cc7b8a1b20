// Tests of config/config.h: finding, comparing, reloading, masking.
#include "config/config.h"

#include <gtest/gtest.h>

#include "config/settings.h"

namespace llmproxy {
namespace {

using Names = std::vector<std::string>;

Config with_backends(const std::vector<std::pair<std::string, std::string>>& names_and_urls) {
  Config config;
  for (const auto& [name, url] : names_and_urls) {
    config.backends[name].name = name;
    config.backends[name].url = url;
  }
  return config;
}

TEST(FindBackend, ByExactName) {
  const Config config = with_backends({{"a", "1"}, {"a-b", "2"}});
  ASSERT_NE(config.find_backend("a-b"), nullptr);
  EXPECT_EQ(config.find_backend("a-b")->url, "2");
  EXPECT_EQ(config.find_backend("A"), nullptr);
  EXPECT_EQ(config.find_backend(""), nullptr);
  EXPECT_EQ(config.find_backend("a-"), nullptr);
}

TEST(FormatProblem, LeavesOutWhatIsEmpty) {
  EXPECT_EQ(format_problem("c.toml", {true, 3, 8, "port", "expected x"}),
            "c.toml:3:8: error: port: expected x");
  EXPECT_EQ(format_problem("c.toml", {false, 3, 8, "", "odd"}), "c.toml:3:8: warning: odd");
  EXPECT_EQ(format_problem("/a/c.toml", {true, 0, 0, "", "gone"}), "/a/c.toml: error: gone");
}

TEST(CompareConfigs, EqualOnesDifferInNothing) {
  const Config config = with_backends({{"a", "1"}});
  const ConfigChange change = compare_configs(config, config);
  EXPECT_TRUE(change.added.empty() && change.changed.empty() && change.removed.empty() &&
              change.live.empty() && change.needs_restart.empty());
}

TEST(CompareConfigs, BackendsAddedChangedRemoved) {
  const Config before = with_backends({{"same", "1"}, {"other", "1"}, {"gone", "1"}});
  Config after = with_backends({{"same", "1"}, {"other", "2"}, {"new", "1"}});
  ConfigChange change = compare_configs(before, after);
  EXPECT_EQ(change.added, Names{"new"});
  EXPECT_EQ(change.changed, Names{"other"});
  EXPECT_EQ(change.removed, Names{"gone"});
  EXPECT_EQ(change.live, Names{});
  after.backends["same"].token = "rotated";
  change = compare_configs(before, after);
  EXPECT_EQ(change.changed, (Names{"other", "same"}));
}

template <class T>
void make_different(T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    value += "x";
  } else if constexpr (std::is_same_v<T, LogLevel>) {
    value = LogLevel::kCritical;
  } else {
    ++value;
  }
}

TEST(CompareConfigs, EachSettingIsSeenAndAppliedOrKept) {
  for (const Setting& setting : all_settings()) {
    const Config before;
    Config after;
    std::visit([&](auto member) { make_different(setting_in(after, member)); }, setting.member);
    const ConfigChange change = compare_configs(before, after);
    const Names changed{setting.dotted_key()};
    EXPECT_EQ(change.live, setting.is_live ? changed : Names{});
    EXPECT_EQ(change.needs_restart, setting.is_live ? Names{} : changed);

    const auto applied = apply_reload(before, after);
    const ConfigChange in_effect = compare_configs(before, *applied);
    EXPECT_EQ(in_effect.live, change.live) << setting.dotted_key();
    EXPECT_EQ(in_effect.needs_restart, Names{}) << setting.dotted_key();
  }
}

TEST(CompareConfigs, WhatIsLive) {
  Names live;
  for (const Setting& setting : all_settings()) {
    if (setting.is_live && setting.table != "limits") live.push_back(setting.dotted_key());
    EXPECT_TRUE(setting.is_live || setting.table != "limits") << setting.key;
  }
  EXPECT_EQ(live, (Names{"log_level", "timeout_connect", "timeout_read", "shutdown_timeout",
                         "flush_timeout", "auth.access_level", "auth.key_ttl",
                         "auth.key_unknown_ttl", "auth.key_stale_max"}));
}

TEST(ApplyReload, BackendsAreTheNewOnes) {
  const Config before = with_backends({{"a", "1"}, {"gone", "1"}});
  Config after = with_backends({{"a", "2"}});
  after.path = "new.toml";
  const auto applied = apply_reload(before, after);
  EXPECT_EQ(applied->backends, after.backends);
  EXPECT_EQ(applied->path, "new.toml");
}

TEST(MaskUri, Table) {
  const std::pair<const char*, const char*> cases[] = {
      {"", ""},
      {"mongodb://localhost:27017", "mongodb://localhost:27017"},
      {"mongodb://localhost:27017/?serverSelectionTimeoutMS=2000",
       "mongodb://localhost:27017/?serverSelectionTimeoutMS=2000"},
      {"mongodb://user@h/db", "mongodb://user@h/db"},
      {"mongodb://user:secret@h/db", "mongodb://user:***@h/db"},
      {"mongodb://user:secret@h1:27017,h2:27017/db?w=1",
       "mongodb://user:***@h1:27017,h2:27017/db?w=1"},
      {"mongodb://user:@h", "mongodb://user:***@h"},
      {"mongodb://:secret@h", "mongodb://:***@h"},
      {"mongodb+srv://user:sec:ret@h", "mongodb+srv://user:***@h"},
      {"mongodb://user:sec@ret@h", "mongodb://user:***@h"},
      {"mongodb://user:sec/ret@h/db", "mongodb://user:***@h/db"},
      {"mongodb://user:sec?ret#@h/db", "mongodb://user:***@h/db"},
      {"mongodb://h/?tlsCertificateKeyFilePassword=secret&w=1",
       "mongodb://h/?tlsCertificateKeyFilePassword=***&w=1"},
      {"mongodb://u:secret@h/?w=1&authMechanismProperties=AWS_SESSION_TOKEN:secret",
       "mongodb://u:***@h/?w=1&authMechanismProperties=***"},
      {"user:secret@h", "user:***@h"},
      {"http://user:secret@h/a", "http://user:***@h/a"},
      {"sqlite:///home/a:b@c/file.db", "sqlite:///home/a:b@c/file.db"},
  };
  for (const auto& [uri, expected] : cases) EXPECT_EQ(mask_uri(uri), expected) << uri;
}

}  // namespace
}  // namespace llmproxy
