// Checks that every API's read_call shares: errors in the client's words, and members whose doubled
// or odd spelling would let the backend read something else than what is metered.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "api/json.h"
#include "base/result.h"

namespace llmproxy {

// 400. `message` never quotes the body: it holds prompts.
Error bad_call(std::string message, std::string param = {});

// Why `json` could not be read.
Error bad_json(const JsonText& json);

// True if a key of `text` might be written with escapes: all letters of the names are \u0040 to
// \u007f. Real bodies hold such escapes hardly ever.
bool has_escaped_letters(std::string_view text);

// An error if a member of `object` is one of `names` doubled, in another case, or written with
// escapes. `text` is the object as written, or "" where has_escaped_letters() said no. Python takes
// the last of two equal keys and Go any case; simdjson's DOM decodes escapes. Names are of
// lower-case letters and underscores.
std::optional<Error> check_spelling(simdjson::dom::object object, std::string_view text,
                                    std::span<const std::string_view> names);

}  // namespace llmproxy
