-- The three keys of sample.js for the embedded database: token1 (expired), token2 and token3.
--     sqlite3 data/llm-billing-proxy.db < sample.sql
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
INSERT OR IGNORE INTO api_keys(id, access_level, secret, user_id, date_expiry, comment) VALUES
  ('000000000000000000000001', 'COMPLETION', 'df3e6b0bb66ceaadca4f84cbc371fd66e04d20fe51fc414da8d1b84d31d178de', 'user1',
   strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), NULL),
  ('000000000000000000000002', 'COMPLETION', 'd8cc7aed3851ac3338fcc15df3b6807b89125837f77a75b9ecb13ed2afe3b49f', 'user2',
   NULL, NULL),
  ('000000000000000000000003', 'COMPLETION', '5d6b091416885eaa91283321b69dc526fc42c97783e4cdfdff7a945e3be1f9ef', 'user3',
   '2124-01-01T00:00:00.000Z', NULL);
