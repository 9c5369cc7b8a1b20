// Text for people: what of UTF-8 may be shown to a person as it is (no control characters; says
// nothing of how wide it is on a terminal), and the words for an error of the system.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace llmproxy {

// Bytes of the character that `text` opens with; 0 for what is no UTF-8, and at the end.
size_t utf8_length(std::string_view text);

bool is_utf8(std::string_view text);

// Bytes of the character that `text` opens with; 0 for a control character (C0, DEL, C1) and for
// what is no UTF-8.
size_t printable_length(std::string_view text);

// So many bytes at the front are printable ASCII: most text is, and is looked at many bytes at
// once.
size_t printable_ascii_length(std::string_view text);

// No control character in it, and all of it UTF-8.
bool is_printable(std::string_view text);

// What this value of errno means; on any thread, which std::strerror does not promise.
std::string errno_text(int error);

}  // namespace llmproxy
