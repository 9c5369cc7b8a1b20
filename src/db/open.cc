// Scheme to implementation; knows no driver.
#include "db/open.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string_view>
#include <vector>

#include "db/mongo.h"
#include "db/mongo_uri.h"
#include "db/sqlite.h"

namespace llmproxy {

namespace {

constexpr std::string_view kSqlite = "sqlite://";

bool is_mongo(std::string_view uri) {
  return uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://");
}

}  // namespace

void unlink_driver_counters() {
  shm_unlink(fmt::format("/mongoc-{}", getpid()).c_str());
}

std::string check_database_uri(const std::string& uri) {
  if (!is_mongo(uri)) {  // a path: what else is wrong with it shows when it is opened
    const bool has_options =
        uri.starts_with(kSqlite) && uri.find_first_of("?#") != std::string::npos;
    return has_options ? "expected a path behind sqlite://; it takes no options, so no ? and no #"
                       : "";
  }
  const auto opened = open_mongo(uri);  // which only reads the URI
  return opened ? "" : opened.error().message;
}

std::string check_database_options(const std::string& uri) {
  const std::vector<std::string> unknown =
      is_mongo(uri) ? unknown_mongo_options(uri) : std::vector<std::string>();
  if (unknown.empty()) return "";
  return fmt::format("the MongoDB driver does not know {}, and goes without",
                     fmt::join(unknown, ", "));
}

Result<std::unique_ptr<Database>> open_database(const std::string& uri) {
  if (is_mongo(uri)) return open_mongo(uri);
  if (uri.starts_with(kSqlite)) return open_sqlite(uri.substr(kSqlite.size()));
  return Error{.message =
                   "a database is named by mongodb://..., mongodb+srv://... or sqlite://PATH"};
}

}  // namespace llmproxy
