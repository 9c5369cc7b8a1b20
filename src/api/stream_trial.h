// Feeds bytes to a StreamReader as a relay would, cut where the caller says. For tests and fuzz
// targets.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "api/endpoint.h"
#include "base/check.h"

namespace llmproxy {

struct StreamTrial {
  std::string client;  // what the client gets
  std::string held;    // the part of it from the first terminal event on
  ReplyFacts facts;
  std::vector<StreamReader::Piece::Kind> pieces;
};

// `cuts`: ascending offsets at which the network splits the bytes.
inline StreamTrial try_stream(StreamReader& reader, std::string_view bytes,
                              const std::vector<size_t>& cuts) {
  using Kind = StreamReader::Piece::Kind;
  StreamTrial trial;
  bool is_held = false;
  size_t taken = 0;
  const auto take = [&](const StreamReader::Piece& piece, size_t available) {
    LLMPROXY_CHECK(piece.size > 0 && piece.size <= available);
    trial.pieces.push_back(piece.kind);
    is_held = is_held || piece.kind == Kind::kTerminal;
    std::string_view text = bytes.substr(taken, piece.size);
    if (piece.kind == Kind::kDrop) text = {};
    if (piece.kind == Kind::kReplace) text = piece.text;
    trial.client += text;
    if (is_held) trial.held += text;
    taken += piece.size;
  };
  const auto read_until = [&](size_t end) {
    while (true) {
      const std::string_view rest = bytes.substr(taken, end - taken);
      const StreamReader::Piece piece = reader.next(rest);
      if (piece.kind == Kind::kMore) break;
      take(piece, rest.size());
    }
  };
  for (const size_t cut : cuts) read_until(cut);
  read_until(bytes.size());
  while (true) {
    const std::string_view rest = bytes.substr(taken);
    const StreamReader::Piece piece = reader.finish(rest, false);
    if (piece.kind == Kind::kMore) break;
    take(piece, rest.size());
  }
  LLMPROXY_CHECK(taken == bytes.size());
  trial.facts = reader.facts();
  return trial;
}

inline std::vector<size_t> every_offset(size_t size) {
  std::vector<size_t> cuts;
  for (size_t i = 1; i < size; ++i) cuts.push_back(i);
  return cuts;
}

}  // namespace llmproxy
