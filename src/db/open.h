// Opens the database that a URI names. The only header of db/ that others include.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "billing/database.h"

namespace llmproxy {

// mongodb:// and mongodb+srv://: never fails because a server is down, only on a URI that cannot be
// read. sqlite://PATH: creates the file (0600) and its directory (0700) where they are missing;
// fails when it cannot, or when the file holds something else. The Error's message is for people
// and holds no password.
Result<std::unique_ptr<Database>> open_database(const std::string& uri);

}  // namespace llmproxy
