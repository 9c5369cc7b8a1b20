// The part of a StreamReader that is the same for every API that streams server-sent events:
// finding events and joining those that are treated alike into one piece. An API adds read_event().
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/endpoint.h"
#include "api/event_pattern.h"
#include "api/sse.h"

namespace llmproxy {

class EventStream : public StreamReader {
 public:
  // Consecutive events that are dropped or replaced make one kReplace piece.
  Piece next(std::string_view bytes) final;
  Piece finish(std::string_view bytes, bool is_cut) final;
  void skip(size_t size) final;
  const ReplyFacts& facts() const final { return facts_; }

 protected:
  // How to treat one event; `raw` is all of it. kReplace: what takes its place is appended to
  // `text`, to which nothing is appended otherwise. `is_whole` is false for the rest at the end of
  // the body, which may be cut anywhere. Counts, figures and flags go to facts_.
  virtual Piece::Kind read_event(std::string_view raw, bool is_whole, std::string& text) = 0;

  // Whether that rest lacks nothing but its empty line.
  virtual bool is_complete(std::string_view raw) = 0;

  // `raw` was read as one event with data that passes, and so is every other of its pattern.
  void learn(std::string_view raw) { pattern_.learn(raw); }

  // An event passed unread; facts_ know already that it may have held usage.
  virtual void note_skipped() {}

  // Of the whole event that is read, its empty line not counted.
  size_t lines() const { return splitter_.lines(); }

  ReplyFacts facts_;

 private:
  Piece next_unit(std::string_view bytes);

  SseSplitter splitter_;
  EventPattern pattern_;
  Piece pending_;     // read in the last call, but of another kind than the piece it returned
  std::string text_;  // of a kReplace piece
  bool is_skipping_ = false;  // inside an event whose front was sent on unread
  // The last event ended in a CR with nothing after it: an LF that follows shares its fate.
  std::optional<Piece::Kind> carriage_return_kind_;
};

}  // namespace llmproxy
