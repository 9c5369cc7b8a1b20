// Any bytes, cut anywhere: the splitter loses nothing, finds an event with the byte that ends it,
// counts its lines, and the data of the events does not depend on the cuts.
#include <cstdint>
#include <string>
#include <string_view>

#include "api/sse.h"
#include "base/check.h"

namespace {

using llmproxy::SseEvent;
using llmproxy::SseSplitter;

size_t lines_of(std::string_view raw) {
  size_t lines = 0;
  while (!raw.empty()) {
    if (!llmproxy::take_sse_line(raw).empty()) ++lines;
  }
  return lines;
}

// The data of all events, whatever is left included, each with a separator. The bytes arrive `step`
// at a time.
std::string data_of(std::string_view bytes, size_t step) {
  SseSplitter splitter;
  std::string all;
  std::string scratch;
  const auto read = [&](std::string_view raw) {
    const SseEvent event = llmproxy::parse_sse_event(raw, scratch);
    if (event.has_data) all.append(event.data).append("\n|");
  };
  size_t taken = 0;
  for (size_t end = 0; end < bytes.size();) {
    end += step < bytes.size() - end ? step : bytes.size() - end;
    while (const size_t size = splitter.next(bytes.substr(taken, end - taken))) {
      LLMPROXY_CHECK(size <= end - taken);
      if (step == 1) LLMPROXY_CHECK(size == end - taken);
      LLMPROXY_CHECK(splitter.lines() == lines_of(bytes.substr(taken, size)));
      read(bytes.substr(taken, size));
      taken += size;
    }
  }
  read(bytes.substr(taken));
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // A byte order mark counts only at the front of what is read: events that begin with one differ.
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (bytes.find("\xEF\xBB\xBF") != std::string_view::npos) return 0;
  const std::string whole = data_of(bytes, bytes.size() + 1);
  LLMPROXY_CHECK(data_of(bytes, 1) == whole);
  LLMPROXY_CHECK(data_of(bytes, size_t{2} + data[0]) == whole);
  return 0;
}
