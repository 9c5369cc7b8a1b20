// JSON by hand: a handful of fields, each quoted by api/json_edit.
#include "billing/ledger_words.h"

#include <fmt/format.h>

#include "api/json_edit.h"

namespace llmproxy {
namespace {

constexpr uint8_t kBsonString = 0x02;

std::string describe_user(const TypedValue& user) {
  std::string text = quote_json(user.text);
  if (user.bson_type != kBsonString)
    text += fmt::format(R"(,"user_id_bson_type":{})", user.bson_type);
  return text;
}

}  // namespace

std::string describe(const Event& event) {
  return fmt::format(R"({{"_id":"{}","date_created":"{}","user_id":{},"api_key_id":{},"model":{},)"
                     R"("prompt_n":{},"completion_n":{}}})",
                     event.id.hex(), format_utc(event.date_created), describe_user(event.user_id),
                     quote_json(event.api_key_id), quote_json(event.model), event.prompt_n,
                     event.completion_n);
}

std::string describe(const UnresolvedRecord& record) {
  const Intent& intent = record.intent;
  return fmt::format(
      R"({{"_id":"{}","started":"{}","ended":"{}","user_id":{},"api_key_id":{},"model":{},)"
      R"("backend":{},"reason":{}}})",
      intent.id.hex(), format_utc(intent.time), format_utc(record.date_created),
      describe_user(intent.user_id), quote_json(intent.api_key_id), quote_json(intent.model),
      quote_json(intent.backend), quote_json(record.reason));
}

}  // namespace llmproxy
