// A Database that knows nothing and takes nothing: a test overrides what it is about. For tests
// only.
#pragma once

#include "billing/database.h"

namespace llmproxy {

class TestDatabase : public Database {
 public:
  KeyLookup find_key(std::string_view, std::string_view, WallMs) override { return {}; }
  BatchResult write_events(std::span<const Event>) override { return {}; }
  Result<std::vector<Stored>> find_events(std::span<const Event>) override { return Error{}; }
  Result<std::string> create_key(const NewKey&) override { return Error{}; }
  Result<std::vector<KeyRecord>> list_keys() override { return Error{}; }
  Result<bool> set_key_expiry(std::string_view, std::optional<WallMs>) override { return Error{}; }
  Result<bool> delete_key(std::string_view) override { return Error{}; }
  std::string identity() const override { return "test"; }
  std::string check() override { return ""; }
};

}  // namespace llmproxy
