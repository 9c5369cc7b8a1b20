// The endpoint table: what each method and path means. A new API is one small file that fills one
// row.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/json_edit.h"
#include "api/usage.h"
#include "base/result.h"
#include "config/config.h"

namespace llmproxy {

enum class Dialect : uint8_t {
  kOpenAi
};  // whose error bodies and stream errors the client expects

// What a request's body says, as far as it decides routing or billing.
struct Call {
  std::string model;
  bool is_stream = false;
  bool asks_usage = false;       // stream_options.include_usage is true
  bool asks_continuous = false;  // stream_options.continuous_usage_stats is true
  int64_t choices = 1;           // the largest of n, best_of and number of prompts; > 1: "several"
};

// Reads one streamed reply: which bytes go to the client, and what they said of their cost.
class StreamReader {
 public:
  virtual ~StreamReader() = default;

  // How the bytes at the front are to be treated. A piece is one or more complete events that are
  // treated alike, so whatever arrived in one read mostly is one piece.
  struct Piece {
    enum class Kind : uint8_t {
      kMore,      // no complete event; size is 0
      kPass,      // send as they are
      kDrop,      // send nothing
      kReplace,   // send `text` instead
      kTerminal,  // the event that ends the answer: it and all after it wait for the outcome
    };
    Kind kind = Kind::kMore;
    size_t size = 0;          // bytes of `bytes`
    std::string_view text{};  // kReplace: valid until the next call
    bool is_half = false;     // finish() only: not a whole event, as far as one can tell
  };

  // `bytes` are all bytes received and not yet covered by a piece. Call until kMore. Events after a
  // kTerminal are read and returned like those before it: usage after [DONE] counts, a second
  // [DONE] is kTerminal again. facts() may already know the event that follows the piece.
  virtual Piece next(std::string_view bytes) = 0;

  // At the end of the body: the rest, an event without its empty line. kMore only when `bytes` is
  // empty. `is_cut`: the body ended because its connection did; half an event says nothing then,
  // and is dropped.
  virtual Piece finish(std::string_view bytes, bool is_cut) = 0;

  // An event longer than the caller's bound: its first `size` bytes are sent on unread. It may have
  // held usage, so what it said counts as malformed.
  virtual void skip(size_t size) = 0;

  virtual const ReplyFacts& facts() const = 0;
};

// A body of up to so many bytes is read in memory that the thread keeps for the next one; a longer
// one takes reading_bytes() of its own while it is read, and a while of time.
constexpr size_t kShortBody = size_t{1} << 20;
size_t reading_bytes(std::string_view body);  // at most

constexpr size_t kSplicesMax = 8;  // of one call

struct Endpoint {
  std::string_view method;
  std::string_view path;
  Dialect dialect = Dialect::kOpenAi;

  // Forwarded endpoints. `body` is the whole body of the request; it needs no padding. Errors are
  // 400.
  Result<Call> (*read_call)(std::string_view body) = nullptr;
  // The splices that make the backend report usage as `policy` says; empty for most. Same `body`.
  // At most kSplicesMax, in order.
  std::vector<Splice> (*edit_call)(std::string_view body, const Call& call,
                                   UsagePolicy policy) = nullptr;
  std::unique_ptr<StreamReader> (*read_stream)(const Call& call, UsagePolicy policy) = nullptr;
  // A plain reply, whole. Any bytes.
  ReplyFacts (*read_reply)(std::string_view body, const Call& call) = nullptr;

  // Endpoints that the proxy answers itself (read_call is null): the JSON body for a key holder.
  std::string (*answer)(const Config& config) = nullptr;
};

// Null when no endpoint has that path. A path with another method: `allow` gets "GET, HEAD" and the
// like.
const Endpoint* find_endpoint(std::string_view method, std::string_view path, std::string& allow);

// The rows (each in its own file).
extern const Endpoint kChatCompletions;  // chat.cc
extern const Endpoint kModels;           // models.cc

}  // namespace llmproxy
