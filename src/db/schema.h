// The SQLite schema, an interface: others read these tables. sample.sql repeats it; a test compares
// them.
#pragma once

namespace llmproxy {

constexpr int kSchemaVersion = 1;  // PRAGMA user_version

constexpr const char* kSchema = R"sql(
CREATE TABLE IF NOT EXISTS api_keys(
  id TEXT PRIMARY KEY,
  access_level TEXT NOT NULL,
  secret TEXT NOT NULL UNIQUE,
  user_id TEXT NOT NULL,
  date_expiry TEXT,
  comment TEXT);
CREATE TABLE IF NOT EXISTS events_completion(
  id TEXT PRIMARY KEY,
  date_created TEXT NOT NULL,
  user_id TEXT NOT NULL,
  api_key_id TEXT NOT NULL,
  model TEXT NOT NULL,
  prompt_n INTEGER NOT NULL,
  completion_n INTEGER NOT NULL);
PRAGMA user_version = 1;
)sql";

}  // namespace llmproxy
