// What the log says of bills: each with all that is known, as one JSON object, so that a person
// could write the document by hand.
#pragma once

#include <string>

#include "billing/event.h"
#include "billing/record.h"

namespace llmproxy {

std::string describe(const Event& event);
std::string describe(const UnresolvedRecord& record);

}  // namespace llmproxy
