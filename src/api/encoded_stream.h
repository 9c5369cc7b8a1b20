// A streamed reply under a Content-Encoding: bytes that nobody here can read pass as they come.
#pragma once

#include "api/endpoint.h"

namespace llmproxy {

class EncodedStream final : public StreamReader {
 public:
  Piece next(std::string_view bytes) override {
    if (bytes.empty()) return {};
    facts_.saw_other_bytes = true;
    return {.kind = Piece::Kind::kPass, .size = bytes.size()};
  }
  Piece finish(std::string_view bytes, bool /*is_cut*/) override { return next(bytes); }
  void skip(size_t /*size*/) override {}
  const ReplyFacts& facts() const override { return facts_; }

 private:
  ReplyFacts facts_;
};

}  // namespace llmproxy
