// Applies splices to a text as a call to a backend does piece by piece. For tests and fuzz targets.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/json_edit.h"
#include "base/check.h"

namespace llmproxy {

// Sorted by offset, and none overlaps another.
inline std::string apply_splices(std::string_view text, const std::vector<Splice>& splices) {
  std::string out;
  size_t at = 0;
  for (const Splice& splice : splices) {
    LLMPROXY_CHECK(splice.offset >= at && splice.offset <= text.size());
    LLMPROXY_CHECK(splice.remove <= text.size() - splice.offset);
    out.append(text.substr(at, splice.offset - at));
    out.append(splice.insert);
    at = splice.offset + splice.remove;
  }
  out.append(text.substr(at));
  return out;
}

}  // namespace llmproxy
