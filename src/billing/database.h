// The database: where keys come from and where events go. Two implementations, db/sqlite and
// db/mongo, under one contract test. Every call blocks (bounded by the implementation's timeouts)
// and may be made from any thread; none throws.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "billing/event.h"
#include "billing/key.h"

namespace llmproxy {

struct KeyLookup {
  enum class State : uint8_t {
    kFound,
    kUnknown,      // no such key, another access level, or expired
    kUnusable,     // found, but without user_id: refused; `detail` names its _id
    kUnavailable,  // the database could not be asked; `detail` says why
  };
  State state = State::kUnavailable;
  Key key{};
  std::string detail{};
};

// What became of one event of a batch.
enum class Delivery : uint8_t {
  kDelivered,  // the database has it, once, equal: by this call or an earlier one
  kRetry,      // not known to be there: send again, under the same id
  kRefused,  // it can never be taken as it is (a different document under its id, validation, ...)
};

struct BatchResult {
  std::vector<Delivery> deliveries;  // one per event, in order
  std::string detail{};              // why not all were delivered; for the log
};

// What is stored under the id of an event.
enum class Stored : uint8_t {
  kAbsent,
  kEqual,
  kDifferent,
  kTwice,  // more than once: a sharded collection can hold an _id so
};

// A key as the command line shows it, of those too that find_key() takes for unusable or unknown.
struct KeyRecord {
  std::string id;
  std::string access_level;
  std::string user_id;  // "": it has none, or one that is no text
  std::optional<WallMs> expires;
  std::string comment;
  bool has_odd_expiry = false;  // it has a date_expiry that is no time
};

struct NewKey {
  std::string secret_hex;  // SHA-256 of the token, 64 lower-case digits
  std::string access_level;
  std::string user_id;
  std::optional<WallMs> expires;
  std::string comment;
};

class Database {
 public:
  virtual ~Database() = default;

  // The original's query: access_level and secret equal, date_expiry null, missing or after `now`.
  virtual KeyLookup find_key(std::string_view secret_hex, std::string_view access_level,
                             WallMs now) = 0;

  // Writes a batch, at most kBatchMax events. A crash, or a lost reply, after which the same events
  // come again writes none twice: ids are primary keys, and a duplicate counts as delivered only
  // when the stored event is equal.
  static constexpr size_t kBatchMax = 1000;
  virtual BatchResult write_events(std::span<const Event> events) = 0;

  // What is stored under the ids of these events, at most kBatchMax of them, one answer for each:
  // by MongoDB's primary, past any rollback. Status 403: this user may not read events; else 503.
  virtual Result<std::vector<Stored>> find_events(std::span<const Event> events) = 0;

  // For the command line. Errors carry a message for people; blame does not matter.
  virtual Result<std::string> create_key(
      const NewKey& key) = 0;                              // its id; an Error if the hash exists
  virtual Result<std::vector<KeyRecord>> list_keys() = 0;  // in order of id
  // Nothing as `when` means never. False: no such id.
  virtual Result<bool> set_key_expiry(std::string_view id, std::optional<WallMs> when) = 0;
  virtual Result<bool> delete_key(std::string_view id) = 0;  // revoke; false: no such id

  // Which place the events go to, the same for all who mean it, without user, password and options:
  // "sqlite:///absolute/path", "mongodb://HOST:PORT,.../DATABASE.COLLECTION", hosts in order of the
  // alphabet and in small letters, "?replicaSet=NAME" behind where the URI names one, or
  // "mongodb+srv://NAME/DATABASE.COLLECTION". The ledger keeps it beside the events. Asks nobody.
  virtual std::string identity() const = 0;

  // One round trip, to say at start whether it answers: "" or why not.
  virtual std::string check() = 0;
};

}  // namespace llmproxy
