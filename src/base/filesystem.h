// Tells whether a directory lies on a file system that forgets. Knows the common two kinds only.
#pragma once

#include <string>

namespace llmproxy {

// "tmpfs" or "overlayfs" when what is written to `dir` is gone after a restart of the machine or of
// the container; else "". A directory that is not there yet counts as its nearest existing parent.
std::string volatile_filesystem(const std::string& dir);

}  // namespace llmproxy
