// BSON values as Python shows them: what the original wrote into api_key_id.
#pragma once

#include <bson/bson.h>

#include <string>

namespace llmproxy {

// What str() gives of the value that pymongo reads: a string itself, an ObjectId's hex, numbers in
// decimal, True, False, None, b'...' for binary (a UUID too), a date as datetime prints it, a
// document or an array as repr() shows it. Types that neither a key nor a part of one should have
// (code, regular expressions, ...), and what is nested too deeply, are written as extended JSON.
std::string python_text(const bson_iter_t& value);

}  // namespace llmproxy
