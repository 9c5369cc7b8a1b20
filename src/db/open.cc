// Scheme to implementation; knows no driver.
#include "db/open.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string_view>

#include "db/mongo.h"
#include "db/sqlite.h"

namespace llmproxy {

namespace {

bool is_mongo(std::string_view uri) {
  return uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://");
}

}  // namespace

void unlink_driver_counters() {
  shm_unlink(fmt::format("/mongoc-{}", getpid()).c_str());
}

std::string check_database_uri(const std::string& uri) {
  if (!is_mongo(uri)) return "";        // a path: what is wrong with it shows when it is opened
  const auto opened = open_mongo(uri);  // which only reads the URI
  return opened ? "" : opened.error().message;
}

Result<std::unique_ptr<Database>> open_database(const std::string& uri) {
  constexpr std::string_view kSqlite = "sqlite://";
  if (is_mongo(uri)) return open_mongo(uri);
  if (uri.starts_with(kSqlite)) return open_sqlite(uri.substr(kSqlite.size()));
  return Error{.message =
                   "a database is named by mongodb://..., mongodb+srv://... or sqlite://PATH"};
}

}  // namespace llmproxy
