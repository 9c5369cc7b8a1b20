// Scheme to implementation; knows no driver.
#include "db/open.h"

#include <string_view>

#include "db/mongo.h"
#include "db/sqlite.h"

namespace llmproxy {

Result<std::unique_ptr<Database>> open_database(const std::string& uri) {
  constexpr std::string_view kSqlite = "sqlite://";
  if (uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://")) return open_mongo(uri);
  if (uri.starts_with(kSqlite)) return open_sqlite(uri.substr(kSqlite.size()));
  return Error{.message =
                   "a database is named by mongodb://..., mongodb+srv://... or sqlite://PATH"};
}

}  // namespace llmproxy
