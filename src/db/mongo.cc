// The calls to MongoDB. Every one is bounded: choice of a server 2 s, connecting 2 s, silence 10 s,
// unless the URI says otherwise. The Stable API is not asked for, as the original did: a server
// without the `hello` command cannot speak it, and nothing here depends on it.
#include "db/mongo.h"

#include <fmt/format.h>
#include <mongoc/mongoc.h>

#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "billing/object_id.h"
#include "db/mongo_document.h"
#include "db/mongo_reply.h"
#include "db/mongo_uri.h"
#include "db/python_text.h"

namespace llmproxy {
namespace {

constexpr const char* kApplication = "llm-billing-proxy";
constexpr const char* kKeysDatabase = "cgc";
constexpr const char* kKeysCollection = "api_keys";
constexpr const char* kEventsDatabase = "billing";
constexpr const char* kEventsCollection = "events_completion";

// The driver's own defaults are 30 s, 10 s, 300 s and for ever.
constexpr std::pair<const char*, int32_t> kTimeoutsMs[] = {
    {MONGOC_URI_SERVERSELECTIONTIMEOUTMS, 2'000},
    {MONGOC_URI_CONNECTTIMEOUTMS, 2'000},
    {MONGOC_URI_SOCKETTIMEOUTMS, 10'000},
    {MONGOC_URI_WAITQUEUETIMEOUTMS, 2'000},
};
constexpr int32_t kWriteConcernTimeoutMs =
    5'000;  // below the socket's, so that the server's word comes
constexpr Milliseconds kOpenAgain{
    1'000};  // from one try to make the pool (DNS of mongodb+srv) to the next

constexpr int kUnavailableStatus = 503;
constexpr int kForbiddenStatus = 403;
constexpr uint32_t kUnauthorized = 13;
constexpr uint32_t kAtlasUnauthorized = 8000;

template <class T, void (*kDestroy)(T*)>
struct Destroy {
  void operator()(T* object) const { kDestroy(object); }
};
template <class T, void (*kDestroy)(T*)>
using Owned = std::unique_ptr<T, Destroy<T, kDestroy>>;
using Pool = Owned<mongoc_client_pool_t, mongoc_client_pool_destroy>;
using Collection = Owned<mongoc_collection_t, mongoc_collection_destroy>;
using Cursor = Owned<mongoc_cursor_t, mongoc_cursor_destroy>;
using WriteConcern = Owned<mongoc_write_concern_t, mongoc_write_concern_destroy>;
using ReadConcern = Owned<mongoc_read_concern_t, mongoc_read_concern_destroy>;
using ReadPreference = Owned<mongoc_read_prefs_t, mongoc_read_prefs_destroy>;

// libmongoc may be started and cleaned up once in a process. Not cleaned up while a thread is left
// inside.
class Driver {
 public:
  static Driver& instance() {
    static Driver driver;
    return driver;
  }
  std::atomic<int> users{0};

 private:
  Driver() {
    // It logs each failed heartbeat, twice a second in an outage, and may quote addresses; what
    // matters comes back as the error of a call.
    mongoc_log_set_handler(nullptr, nullptr);
    mongoc_init();
  }
  ~Driver() {
    if (users == 0) mongoc_cleanup();
  }
};

// A client of the pool for the length of one call.
class Client {
 public:
  Client(mongoc_client_pool_t* pool, mongoc_client_t* client) : pool_(pool), client_(client) {}
  ~Client() { mongoc_client_pool_push(pool_, client_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  mongoc_client_t* get() const { return client_; }
  Collection keys() const {
    return Collection(mongoc_client_get_collection(client_, kKeysDatabase, kKeysCollection));
  }
  Collection events() const {
    return Collection(mongoc_client_get_collection(client_, kEventsDatabase, kEventsCollection));
  }

 private:
  mongoc_client_pool_t* pool_;
  mongoc_client_t* client_;
};

// Majority and journal, whatever the URI says: less may be rolled back after it was acknowledged.
void add_write_concern(BsonDocument& options) {
  const WriteConcern concern(mongoc_write_concern_new());
  mongoc_write_concern_set_wmajority(concern.get(), kWriteConcernTimeoutMs);
  mongoc_write_concern_set_journal(concern.get(), true);
  mongoc_write_concern_append(concern.get(), options.get());
}

class MongoDatabase final : public Database {
 public:
  MongoDatabase(std::string text, MongoUri uri) : text_(std::move(text)), uri_(std::move(uri)) {
    ++Driver::instance().users;
  }
  ~MongoDatabase() override {
    pool_.reset();
    --Driver::instance().users;
  }

  // Makes the pool, which connects to nobody yet. "" or why not.
  std::string make_pool();

  KeyLookup find_key(std::string_view secret_hex, std::string_view access_level,
                     WallMs now) override;
  BatchResult write_events(std::span<const Event> events) override;
  Result<std::vector<Stored>> find_events(std::span<const Event> events) override;
  Result<std::string> create_key(const NewKey& key) override;
  Result<std::vector<KeyRecord>> list_keys() override;
  Result<bool> set_key_expiry(std::string_view id, std::optional<WallMs> when) override;
  Result<bool> delete_key(std::string_view id) override;
  std::string identity() const override {
    return mongo_identity(*uri_, fmt::format("{}.{}", kEventsDatabase, kEventsCollection));
  }
  std::string check() override;

 private:
  using Part = std::vector<size_t>;  // which events of a batch

  std::string explain(const bson_error_t& error) const {
    return without_password(fmt::format("{} (code {})", error.message, error.code), text_);
  }
  Error unavailable(std::string why) const {
    return {.status = kUnavailableStatus, .message = "MongoDB: " + std::move(why)};
  }
  Error unavailable(const bson_error_t& error) const { return unavailable(explain(error)); }

  Result<std::unique_ptr<Client>> borrow();
  InsertReply insert(const Client& client, std::span<const Event> events, const Part& part);
  void read_back(const Client& client, std::span<const Event> events, const Part& part,
                 const std::vector<Verdict>& verdicts, BatchResult& result);

  const std::string text_;
  const MongoUri uri_;
  std::mutex making_;          // held by the one thread that makes the pool
  MonotonicTime made_last_{};  // guarded by making_
  std::string make_problem_;   // guarded by making_
  Pool pool_;                  // guarded by making_ until ready_
  std::atomic<mongoc_client_pool_t*> ready_{nullptr};
  ObjectIdMint mint_;
};

std::string MongoDatabase::make_pool() {
  // Looking up mongodb+srv names blocks; the others do not queue behind it.
  const std::unique_lock lock(making_, std::try_to_lock);
  if (!lock) return "its name is being looked up";
  if (ready_ != nullptr) return "";
  const MonotonicTime now = monotonic_now();
  if (!make_problem_.empty() && now - made_last_ < kOpenAgain) return make_problem_;
  bson_error_t error{};
  Pool pool(mongoc_client_pool_new_with_error(uri_.get(), &error));
  made_last_ = monotonic_now();
  make_problem_ = pool ? "" : explain(error);
  if (!pool) return make_problem_;
  mongoc_client_pool_set_error_api(pool.get(), MONGOC_ERROR_API_VERSION_2);
  if (mongoc_uri_get_appname(uri_.get()) == nullptr) {
    mongoc_client_pool_set_appname(pool.get(), kApplication);
  }
  pool_ = std::move(pool);
  ready_ = pool_.get();
  return "";
}

Result<std::unique_ptr<Client>> MongoDatabase::borrow() {
  if (ready_ == nullptr) {
    if (std::string problem = make_pool(); !problem.empty()) return unavailable(std::move(problem));
  }
  mongoc_client_pool_t* const pool = ready_;
  mongoc_client_t* const client = mongoc_client_pool_pop(pool);
  if (client == nullptr) return unavailable("all connections are in use");
  return std::make_unique<Client>(pool, client);
}

// Whom no bill can name.
bool is_nobody(const bson_iter_t& user) {
  return BSON_ITER_HOLDS_NULL(&user) ||
         (BSON_ITER_HOLDS_UTF8(&user) && *bson_iter_utf8(&user, nullptr) == '\0');
}

KeyLookup judge(const bson_t& document) {
  using State = KeyLookup::State;
  bson_iter_t id, user, expiry;
  if (!bson_iter_init_find(&id, &document, "_id")) {
    return {.state = State::kUnusable, .detail = "a document of cgc.api_keys has no _id"};
  }
  KeyLookup found{.state = State::kFound};
  found.key.id = python_text(id);
  if (!bson_iter_init_find(&user, &document, "user_id") || is_nobody(user)) {
    return {.state = State::kUnusable, .detail = fmt::format("key {}: no user_id", found.key.id)};
  }
  found.key.user_id = typed_value(user);
  if (bson_iter_init_find(&expiry, &document, "date_expiry") &&
      BSON_ITER_HOLDS_DATE_TIME(&expiry)) {
    found.key.expires = bson_iter_date_time(&expiry);
  }
  return found;
}

KeyLookup MongoDatabase::find_key(std::string_view secret_hex, std::string_view access_level,
                                  WallMs now) {
  BsonDocument after, expires, unlimited, filter, options;
  after.add_date("$gt", now);
  expires.add("date_expiry", after);
  unlimited.add_null("date_expiry");  // matches a missing one too
  bson_t either;
  filter.add("access_level", access_level).add("secret", secret_hex);
  bson_append_array_begin(filter.get(), "$or", -1, &either);
  bson_append_document(&either, "0", -1, unlimited.get());
  bson_append_document(&either, "1", -1, expires.get());
  bson_append_array_end(filter.get(), &either);
  options.add_number("limit", 1).add_bool("singleBatch", true);

  auto client = borrow();
  if (!client) return {.detail = client.error().message};
  const Collection keys = (*client)->keys();
  const Cursor cursor(
      mongoc_collection_find_with_opts(keys.get(), filter.get(), options.get(), nullptr));
  const bson_t* document = nullptr;
  if (mongoc_cursor_next(cursor.get(), &document)) return judge(*document);
  bson_error_t error{};
  if (mongoc_cursor_error(cursor.get(), &error)) return {.detail = unavailable(error).message};
  return {.state = KeyLookup::State::kUnknown};
}

// bson_t's alignment does not matter to a list of pointers, whatever GCC says of the template
// argument.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
InsertReply MongoDatabase::insert(const Client& client, std::span<const Event> events,
                                  const Part& part) {
  std::deque<BsonDocument> documents;
  std::vector<const bson_t*> pointers;
  for (const size_t index : part) {
    append_event(documents.emplace_back(), events[index]);
    pointers.push_back(documents.back().get());
  }
  BsonDocument options, reply;
  options.add_bool("ordered", false);
  options.add_bool("validate", false);  // made here
  add_write_concern(options);
  bson_error_t error{};
  const Collection collection = client.events();
  const bool is_ok = mongoc_collection_insert_many(
      collection.get(), pointers.data(), pointers.size(), options.get(), reply.fresh(), &error);
  InsertReply answer = read_insert_reply(is_ok, *reply.get(), error, part.size());
  answer.detail = without_password(std::move(answer.detail), text_);
  return answer;
}
#pragma GCC diagnostic pop

void add_detail(BatchResult& result, std::string_view detail) {
  if (result.detail.find(detail) != std::string::npos) return;
  if (!result.detail.empty()) result.detail += "; ";
  result.detail += detail;
}

bool is_unauthorized(const bson_error_t& error) {
  return error.code == kUnauthorized || error.code == kAtlasUnauthorized;
}

// Calls see(id, document) for what is stored under these ids: by the primary, and past any
// rollback. False: `error`.
template <class See>
bool read_stored(const Client& client, const BsonDocument& ids, bson_error_t& error, See see) {
  BsonDocument in, filter, options;
  bson_append_array(in.get(), "$in", -1, ids.get());
  filter.add("_id", in);
  const ReadConcern concern(mongoc_read_concern_new());
  mongoc_read_concern_set_level(concern.get(), MONGOC_READ_CONCERN_LEVEL_MAJORITY);
  mongoc_read_concern_append(concern.get(), options.get());
  const ReadPreference primary(mongoc_read_prefs_new(MONGOC_READ_PRIMARY));
  const Collection collection = client.events();
  const Cursor cursor(mongoc_collection_find_with_opts(collection.get(), filter.get(),
                                                       options.get(), primary.get()));
  const bson_t* stored = nullptr;
  while (mongoc_cursor_next(cursor.get(), &stored)) {
    bson_iter_t id;
    if (!bson_iter_init_find(&id, stored, "_id") || !BSON_ITER_HOLDS_OID(&id)) continue;
    see(ObjectId::from_hex(python_text(id)).value_or(ObjectId{}), *stored);
  }
  return !mongoc_cursor_error(cursor.get(), &error);
}

// What is stored under the ids that were called duplicates.
void MongoDatabase::read_back(const Client& client, std::span<const Event> events, const Part& part,
                              const std::vector<Verdict>& verdicts, BatchResult& result) {
  std::map<ObjectId, size_t> places;  // in `part`
  BsonDocument ids;
  for (size_t i = 0; i < part.size(); ++i) {
    if (verdicts[i] != Verdict::kDuplicate && verdicts[i] != Verdict::kDuplicateElsewhere) continue;
    const ObjectId& id = events[part[i]].id;
    ids.add_id(std::to_string(places.size()).c_str(), id);
    places.emplace(id, i);
    const bool is_elsewhere = verdicts[i] == Verdict::kDuplicateElsewhere;
    result.deliveries[part[i]] = is_elsewhere ? Delivery::kRefused : Delivery::kRetry;
  }
  if (places.empty()) return;
  bson_error_t error{};
  const bool is_read =
      read_stored(client, ids, error, [&](const ObjectId& id, const bson_t& stored) {
        const auto place = places.find(id);
        if (place == places.end()) return;
        const size_t index = part[place->second];
        const bool is_equal = is_event(stored, events[index]);
        result.deliveries[index] = is_equal ? Delivery::kDelivered : Delivery::kRefused;
        if (!is_equal) add_detail(result, "another event is stored under its _id");
        places.erase(place);
      });
  if (is_read) {
    if (!places.empty()) add_detail(result, "a unique index refused it");
    return;
  }
  // A role that may only insert: the server's word that the _id is taken must do. Another index's
  // word says that it can never be taken.
  const bool may_read = !is_unauthorized(error);
  for (const auto& [id, place] : places) {
    const bool is_elsewhere = verdicts[place] == Verdict::kDuplicateElsewhere;
    if (!may_read && is_elsewhere) add_detail(result, "a unique index refused it");
    result.deliveries[part[place]] = may_read       ? Delivery::kRetry
                                     : is_elsewhere ? Delivery::kRefused
                                                    : Delivery::kDelivered;
  }
  if (may_read) add_detail(result, explain(error));
}

BatchResult MongoDatabase::write_events(std::span<const Event> events) {
  BatchResult result{.deliveries = std::vector<Delivery>(events.size(), Delivery::kRetry)};
  auto client = borrow();
  if (!client) {
    result.detail = client.error().message;
    return result;
  }
  std::deque<Part> parts(1);
  for (size_t i = 0; i < events.size(); ++i) parts.front().push_back(i);
  bool is_failing = false;  // what else there is waits for the next call
  for (; !parts.empty() && !parts.front().empty() && !is_failing; parts.pop_front()) {
    const Part part = parts.front();
    const InsertReply reply = insert(**client, events, part);
    if (!reply.detail.empty()) add_detail(result, reply.detail);
    Part again;  // each time smaller: halves, down to one
    for (size_t i = 0; i < part.size(); ++i) {
      Delivery& delivery = result.deliveries[part[i]];
      const Verdict verdict = reply.verdicts[i];
      if (verdict == Verdict::kDelivered) delivery = Delivery::kDelivered;
      if (verdict == Verdict::kRefused) delivery = Delivery::kRefused;
      if (verdict == Verdict::kRetry) is_failing = true;
      if (verdict == Verdict::kAlone && part.size() == 1) delivery = Delivery::kRefused;
      if (verdict == Verdict::kAlone && part.size() > 1) again.push_back(part[i]);
    }
    read_back(**client, events, part, reply.verdicts, result);
    const auto middle = again.begin() + static_cast<ptrdiff_t>((again.size() + 1) / 2);
    if (!again.empty()) parts.emplace_back(again.begin(), middle);
    if (middle != again.end()) parts.emplace_back(middle, again.end());
  }
  return result;
}

Result<std::vector<Stored>> MongoDatabase::find_events(std::span<const Event> events) {
  auto client = borrow();
  if (!client) return client.error();
  BsonDocument ids;
  std::map<ObjectId, size_t> places;
  for (size_t i = 0; i < events.size(); ++i) {
    ids.add_id(std::to_string(i).c_str(), events[i].id);
    places.emplace(events[i].id, i);
  }
  std::vector<Stored> found(events.size(), Stored::kAbsent);
  bson_error_t error{};
  const bool is_read =
      read_stored(**client, ids, error, [&](const ObjectId& id, const bson_t& document) {
        const auto place = places.find(id);
        if (place == places.end()) return;
        Stored& one = found[place->second];
        if (one != Stored::kAbsent) {
          one = Stored::kTwice;
        } else {
          one = is_event(document, events[place->second]) ? Stored::kEqual : Stored::kDifferent;
        }
      });
  if (is_read) return found;
  Error failed = unavailable(error);
  if (is_unauthorized(error)) failed.status = kForbiddenStatus;
  return failed;
}

Result<std::string> MongoDatabase::create_key(const NewKey& key) {
  auto client = borrow();
  if (!client) return client.error();
  const Collection keys = (*client)->keys();
  bson_error_t error{};
  BsonDocument same, options, reply, document;
  // The original's collection need not have a unique index on the hash.
  same.add("secret", key.secret_hex);
  const int64_t count =
      mongoc_collection_count_documents(keys.get(), same.get(), nullptr, nullptr, nullptr, &error);
  if (count < 0) return unavailable(error);
  const Error exists{.status = 409, .message = "a key with this hash exists already"};
  if (count > 0) return exists;
  const ObjectId id = mint_.mint(wall_now_ms());
  document.add_id("_id", id).add("access_level", key.access_level).add("secret", key.secret_hex);
  document.add("user_id", key.user_id);
  key.expires ? document.add_date("date_expiry", *key.expires) : document.add_null("date_expiry");
  if (!key.comment.empty()) document.add("comment", key.comment);
  add_write_concern(options);
  if (mongoc_collection_insert_one(keys.get(), document.get(), options.get(), reply.fresh(),
                                   &error)) {
    return id.hex();
  }
  return error.code == MONGOC_ERROR_DUPLICATE_KEY ? exists : unavailable(error);
}

KeyRecord read_record(const bson_t& document) {
  KeyRecord record;
  bson_iter_t field;
  const auto text = [&](const char* name) -> std::string {
    if (!bson_iter_init_find(&field, &document, name) || BSON_ITER_HOLDS_NULL(&field)) return "";
    return python_text(field);
  };
  record.id = text("_id");
  record.access_level = text("access_level");
  record.user_id = text("user_id");
  record.comment = text("comment");
  if (bson_iter_init_find(&field, &document, "date_expiry") && !BSON_ITER_HOLDS_NULL(&field)) {
    record.has_odd_expiry = !BSON_ITER_HOLDS_DATE_TIME(&field);
    if (!record.has_odd_expiry) record.expires = bson_iter_date_time(&field);
  }
  return record;
}

Result<std::vector<KeyRecord>> MongoDatabase::list_keys() {
  auto client = borrow();
  if (!client) return client.error();
  BsonDocument all, options, order, fields;
  order.add_number("_id", 1);
  fields.add_bool("secret", false);
  options.add("sort", order).add("projection", fields);
  const Collection keys = (*client)->keys();
  const Cursor cursor(
      mongoc_collection_find_with_opts(keys.get(), all.get(), options.get(), nullptr));
  std::vector<KeyRecord> records;
  const bson_t* document = nullptr;
  while (mongoc_cursor_next(cursor.get(), &document)) records.push_back(read_record(*document));
  bson_error_t error{};
  if (mongoc_cursor_error(cursor.get(), &error)) return unavailable(error);
  return records;
}

// {_id: {$in: [...]}} with all that `id` may stand for: an ObjectId, a string, a whole number.
void add_id_filter(BsonDocument& filter, std::string_view id) {
  BsonDocument values, in;
  values.add("0", id);
  int count = 1;
  if (const auto object_id = ObjectId::from_hex(id)) {
    values.add_id(std::to_string(count++).c_str(), *object_id);
  }
  constexpr size_t kDigitsMax = 18;  // always fits int64
  if (!id.empty() && id.size() <= kDigitsMax &&
      id.find_first_not_of("0123456789") == std::string_view::npos) {
    values.add_number(std::to_string(count).c_str(), std::stoll(std::string(id)));
  }
  bson_append_array(in.get(), "$in", -1, values.get());
  filter.add("_id", in);
}

bool is_positive(const BsonDocument& reply, const char* key) {
  bson_iter_t value;
  return bson_iter_init_find(&value, reply.get(), key) && bson_iter_as_int64(&value) > 0;
}

Result<bool> MongoDatabase::set_key_expiry(std::string_view id, std::optional<WallMs> when) {
  auto client = borrow();
  if (!client) return client.error();
  BsonDocument filter, value, update, options, reply;
  add_id_filter(filter, id);
  when ? value.add_date("date_expiry", *when) : value.add_null("date_expiry");
  update.add("$set", value);
  add_write_concern(options);
  const Collection keys = (*client)->keys();
  bson_error_t error{};
  if (!mongoc_collection_update_one(keys.get(), filter.get(), update.get(), options.get(),
                                    reply.fresh(), &error)) {
    return unavailable(error);
  }
  return is_positive(reply, "matchedCount");
}

Result<bool> MongoDatabase::delete_key(std::string_view id) {
  auto client = borrow();
  if (!client) return client.error();
  BsonDocument filter, options, reply;
  add_id_filter(filter, id);
  add_write_concern(options);
  const Collection keys = (*client)->keys();
  bson_error_t error{};
  if (!mongoc_collection_delete_one(keys.get(), filter.get(), options.get(), reply.fresh(),
                                    &error)) {
    return unavailable(error);
  }
  return is_positive(reply, "deletedCount");
}

std::string MongoDatabase::check() {
  auto client = borrow();
  if (!client) return client.error().message;
  BsonDocument ping, reply;
  ping.add_number("ping", 1);
  bson_error_t error{};
  const bool is_ok = mongoc_client_command_simple((*client)->get(), "admin", ping.get(), nullptr,
                                                  reply.fresh(), &error);
  return is_ok ? "" : unavailable(error).message;
}

}  // namespace

Result<std::unique_ptr<Database>> open_mongo(const std::string& uri) {
  Driver::instance();
  Result<MongoUri> parsed = parse_mongo_uri(uri);
  if (!parsed) return Error{.message = "MongoDB URI: " + parsed.error().message};
  for (const auto& [option, milliseconds] : kTimeoutsMs) {
    if (!mongoc_uri_has_option(parsed->get(), option)) {
      mongoc_uri_set_option_as_int32(parsed->get(), option, milliseconds);
    }
  }
  auto database = std::make_unique<MongoDatabase>(uri, std::move(*parsed));
  if (!uri.starts_with("mongodb+srv://")) {
    if (const std::string problem = database->make_pool(); !problem.empty()) {
      return Error{.message = "MongoDB URI: " + problem};
    }
  }
  return std::unique_ptr<Database>(std::move(database));
}

}  // namespace llmproxy
