// MongoDB, as the Python original uses it: keys in cgc.api_keys, events in
// billing.events_completion.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "billing/database.h"

namespace llmproxy {

// See open_database.
Result<std::unique_ptr<Database>> open_mongo(const std::string& uri);

}  // namespace llmproxy
