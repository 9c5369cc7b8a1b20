// Reads a file that the configuration names. Never waits: what is no regular file is refused.
#pragma once

#include <cstddef>
#include <string>

namespace llmproxy {

// The whole file into `text`. "", or why not, as words that follow the file's name.
std::string read_regular_file(const std::string& path, size_t bytes_max, std::string& text);

}  // namespace llmproxy
