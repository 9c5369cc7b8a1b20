// The embedded database: one SQLite file. Others may read its tables and write keys beside a
// running proxy.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "billing/database.h"

namespace llmproxy {

// See open_database. `path` as the file system knows it.
Result<std::unique_ptr<Database>> open_sqlite(const std::string& path);

}  // namespace llmproxy
