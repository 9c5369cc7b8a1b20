// Events into pieces. Says nothing of what an event means.
#include "api/event_stream.h"

#include <utility>

namespace llmproxy {

namespace {

using Kind = StreamReader::Piece::Kind;

// Room kept for replacements between calls. Open streams are many, and mostly wait.
constexpr size_t kKeptText = 1024;

bool is_rewritten(Kind kind) {
  return kind == Kind::kDrop || kind == Kind::kReplace;
}

bool joins(Kind run, Kind event) {
  return (run == Kind::kPass && event == Kind::kPass) || (is_rewritten(run) && is_rewritten(event));
}

}  // namespace

// The next event, or those that are of the pattern, or the LF that belongs to the one before it.
// kMore: none is complete.
StreamReader::Piece EventStream::next_unit(std::string_view bytes) {
  if (bytes.empty()) return {};
  if (carriage_return_kind_) {
    const Kind kind = *std::exchange(carriage_return_kind_, std::nullopt);
    if (bytes[0] == '\n') {
      splitter_.next(bytes.substr(0, 1));  // takes it as the rest of a CRLF
      splitter_.forget(1);
      return {.kind = kind == Kind::kDrop ? Kind::kDrop : Kind::kPass, .size = 1};
    }
  }
  if (splitter_.is_between_events() && !is_skipping_) {
    const EventPattern::Run run = pattern_.match(bytes);
    facts_.data_events += run.events;
    if (run.events > 0) return {.kind = Kind::kPass, .size = run.bytes};
  }
  Piece unit;
  unit.size = splitter_.next(bytes);
  if (unit.size == 0) return unit;
  const std::string_view raw = bytes.substr(0, unit.size);
  unit.kind = std::exchange(is_skipping_, false) ? Kind::kPass : read_event(raw, true, text_);
  if (unit.size == bytes.size() && raw.back() == '\r') carriage_return_kind_ = unit.kind;
  return unit;
}

StreamReader::Piece EventStream::next(std::string_view bytes) {
  Piece piece = std::exchange(pending_, Piece{});
  if (piece.kind != Kind::kReplace) {
    text_.clear();
    if (text_.capacity() > kKeptText) std::string().swap(text_);
  }
  while (piece.kind != Kind::kTerminal) {
    const Piece unit = next_unit(bytes.substr(piece.size));
    if (unit.kind == Kind::kMore) break;
    if (piece.kind != Kind::kMore && !joins(piece.kind, unit.kind)) {
      pending_ = unit;
      break;
    }
    if (piece.kind == Kind::kMore || unit.kind == Kind::kReplace) piece.kind = unit.kind;
    piece.size += unit.size;
  }
  if (piece.kind == Kind::kReplace) piece.text = text_;
  return piece;
}

StreamReader::Piece EventStream::finish(std::string_view bytes, bool is_cut) {
  Piece piece = next(bytes);
  if (piece.kind != Kind::kMore || bytes.empty()) return piece;
  const bool is_unread = std::exchange(is_skipping_, false);
  piece.is_half = is_unread || !is_complete(bytes);
  piece.size = bytes.size();
  if (is_cut && piece.is_half) {
    piece.kind = Kind::kDrop;
  } else {
    piece.kind = is_unread ? Kind::kPass : read_event(bytes, false, text_);
  }
  if (piece.kind == Kind::kReplace) piece.text = text_;
  splitter_ = SseSplitter();
  return piece;
}

void EventStream::skip(size_t size) {
  splitter_.forget(size);
  if (std::exchange(is_skipping_, true)) return;
  ++facts_.data_events;
  facts_.is_malformed = true;
  note_skipped();
}

}  // namespace llmproxy
