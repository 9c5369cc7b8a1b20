// Streamed replies: what arrives in one read leaves in one write, cut only between events. The
// first waits until the intent is durable, the terminal event and all after it until the outcome
// is. A stream that has come whole before anything of it went out is sent as a plain reply is, all
// of it after its outcome: one write and one record where there would be two.
#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/encoded_stream.h"
#include "api/error_body.h"
#include "proxy/errors.h"
#include "proxy/relay.h"
#include "proxy/reply.h"
#include "proxy/reply_body.h"

namespace llmproxy {
namespace {

using Piece = StreamReader::Piece;
using Status = ReplyBody::Status;

constexpr size_t kEventBytesMax = size_t{1} << 20;  // of an unfinished event that waits for its end
constexpr std::chrono::seconds kEndWaitMax{1};      // from the terminal event to the body's end
constexpr size_t kHeldBytesMax = size_t{1} << 20;   // of what comes meanwhile
constexpr std::string_view kLastChunk = "0\r\n\r\n";
constexpr Milliseconds kProgressInterval{
    250};                                    // from one figure that the ledger is told to the next
constexpr Milliseconds kStallInterval{100};  // between two looks at a disk that does not keep up

// What one write to the client consists of: bytes of the buffer as they are, or edited events.
class Outgoing {
 public:
  void add(std::string_view bytes) {
    if (bytes.empty()) return;
    const bool goes_on = !pieces_.empty() && pieces_.back().data != nullptr &&
                         pieces_.back().data + pieces_.back().size == bytes.data();
    if (goes_on) {  // as most events do: one part for the kernel, however many there are
      pieces_.back().size += bytes.size();
    } else {
      pieces_.push_back({bytes.data(), 0, bytes.size()});
    }
  }
  void add_edited(std::string_view text) {
    if (text.empty()) return;
    pieces_.push_back({nullptr, edited_.size(), text.size()});
    edited_.append(text);
  }
  bool empty() const { return pieces_.empty(); }
  void clear() {
    pieces_.clear();
    edited_.clear();
    parts_.clear();
  }

  // The pieces as one HTTP chunk behind `head`.
  std::span<iovec> parts(std::string_view head, std::string_view tail) {
    add_part(head);
    size_t total = 0;
    for (const Piece& piece : pieces_) total += piece.size;
    if (total > 0) {
      add_part({chunk_head_.data(), http::write_chunk_head(chunk_head_.data(), total)});
      for (const Piece& piece : pieces_) {
        add_part({piece.data != nullptr ? piece.data : edited_.data() + piece.offset, piece.size});
      }
      add_part("\r\n");
    }
    add_part(tail);
    return parts_;
  }

 private:
  struct Piece {
    const char* data;  // null: in edited_, at `offset`
    size_t offset;
    size_t size;
  };
  void add_part(std::string_view bytes) {
    if (!bytes.empty()) parts_.push_back({const_cast<char*>(bytes.data()), bytes.size()});
  }

  std::vector<Piece> pieces_;
  std::string edited_;
  std::vector<iovec> parts_;
  std::array<char, http::kChunkHeadMax> chunk_head_{};
};

std::unique_ptr<StreamReader> make_reader(const Request& request, const Exchange& exchange) {
  if (exchange.is_encoded) return std::make_unique<EncodedStream>();
  return request.endpoint->read_stream(request.call, request.backend->usage);
}

// Tells the ledger how far a stream has come that may be billed from its running figures: the
// latest figure, at most once in kProgressInterval. No lock is taken, and nothing allocated, for
// the chunks between.
class Progress {
 public:
  explicit Progress(const Request& request)
      : ledger_(request.server.parts().ledger),
        id_(request.id),
        is_wanted_(may_bill_running(request)) {}

  void note(const ReplyFacts& facts, MonotonicTime now) {
    if (!is_wanted_ || facts.is_malformed) return;
    const std::optional<Figure>& figure =
        facts.final_figure ? facts.final_figure : facts.running_figure;
    const bool is_final = facts.final_figure.has_value();
    if (!figure || (figure == latest_ && is_final == is_final_)) return;
    latest_ = figure;
    is_final_ = is_final;
    is_untold_ = true;
    if (now >= next_) tell(now);
  }
  // When tell() should be called although no other figure came.
  MonotonicTime due() const { return is_untold_ ? next_ : MonotonicTime::max(); }
  void tell(MonotonicTime now) {
    if (!std::exchange(is_untold_, false)) return;
    ledger_.progress(id_, *latest_, is_final_);
    next_ = now + kProgressInterval;
  }
  // The disk does not keep up with what is told.
  bool is_stalled() const { return is_wanted_ && ledger_.is_stalled(); }
  // It has failed meanwhile, and what was told may be gone.
  void tell_again(MonotonicTime now) {
    is_untold_ = latest_.has_value();
    tell(now);
  }

 private:
  Ledger& ledger_;
  const ObjectId id_;
  const bool is_wanted_;
  std::optional<Figure> latest_;
  bool is_final_ = false;
  bool is_untold_ = false;
  MonotonicTime next_{};
};

class StreamRelay {
 public:
  StreamRelay(Request& request, Exchange& exchange)
      : request_(request),
        exchange_(exchange),
        loop_(request.server.loop()),
        body_(exchange),
        reader_(make_reader(request, exchange)),
        progress_(request) {}

  // Until the terminal event or the end of the body. False: nothing may be sent, the intent could
  // not be recorded.
  net::Task<bool> relay_events();
  net::Task<void> await_body_end();  // after a terminal event
  void note_evidence();
  // What was held, and the end: clean, or an error and a cut.
  net::Task<void> send_end(bool is_recorded);
  net::Task<void> await_late_figure();  // after an unresolved end, while the backend still speaks
  bool is_clean() const { return body_.is_clean(); }
  bool has_sent_nothing() const { return !head_.empty(); }

 private:
  void begin_head();
  size_t take_pieces();
  size_t take_unfinished(std::string_view left);
  net::Task<void> send_pieces(size_t covered);
  net::Task<void> await_disk();

  Request& request_;
  Exchange& exchange_;
  net::Loop& loop_;
  ReplyBody body_;
  std::unique_ptr<StreamReader> reader_;
  Progress progress_;
  Outgoing out_;
  std::string head_;        // until it is sent
  std::string held_;        // the terminal event and what came after it
  std::string unfinished_;  // the last event, where it lacks its empty line
  Status status_ = Status::kMore;
  bool is_holding_ = false;
  bool is_event_open_ = false;  // the client has the front of an event and not yet its end
  bool ends_in_half_ = false;   // the body ended inside an event, which the client does not get
};

void StreamRelay::begin_head() {
  head_ = std::move(exchange_.head);
  head_ += "X-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n";
  if (!exchange_.has_cache_control) head_ += "Cache-Control: no-cache\r\n";
  head_ += request_.keeps_alive() ? "\r\n" : "Connection: close\r\n\r\n";
  request_.status = exchange_.status;
}

// Sorts all complete events of the buffer; returns how many bytes they cover.
size_t StreamRelay::take_pieces() {
  size_t covered = 0;
  for (;;) {
    const std::string_view left = body_.bytes().substr(covered);
    Piece piece = reader_->next(left);
    if (piece.kind != Piece::Kind::kMore) {
      is_event_open_ = false;
    } else if (left.size() < kEventBytesMax) {
      return covered + take_unfinished(left);
    } else {
      piece = {Piece::Kind::kPass, left.size() - body_.unmasked()};
      reader_->skip(piece.size);
      is_event_open_ = true;
    }
    is_holding_ |= piece.kind == Piece::Kind::kTerminal;
    const std::string_view bytes = left.substr(0, piece.size);
    const bool is_edited = piece.kind == Piece::Kind::kReplace;
    if (piece.kind == Piece::Kind::kDrop) {
    } else if (is_holding_) {
      held_.append(is_edited ? piece.text : bytes);
    } else if (is_edited) {
      out_.add_edited(piece.text);
    } else {
      out_.add(bytes);
    }
    covered += piece.size;
  }
}

// The last event of a body may lack its empty line. It is read, and sent if the body turns out to
// be whole. Where only the connection's end says that it is, half an event says the contrary. Of a
// body that is cut, an event that lacks nothing else counts, too: its figure is the backend's.
size_t StreamRelay::take_unfinished(std::string_view left) {
  const bool is_cut = status_ == Status::kCut;
  if (left.empty() || !(is_cut || body_.is_done())) return 0;
  const Piece piece = reader_->finish(left, is_cut);
  ends_in_half_ = piece.is_half && (is_cut || body_.is_close_delimited());
  if (ends_in_half_) return left.size();
  if (piece.kind == Piece::Kind::kReplace) unfinished_ = piece.text;
  if (piece.kind == Piece::Kind::kPass || piece.kind == Piece::Kind::kTerminal) unfinished_ = left;
  return left.size();
}

// Also sends the head, alone if there is no event yet: a backend that has begun is seen to have
// begun.
net::Task<void> StreamRelay::send_pieces(size_t covered) {
  if (!out_.empty() || !head_.empty()) {
    co_await request_.send_to_client(out_.parts(head_, ""));
    out_.clear();
    head_.clear();
  }
  body_.consume(covered);
}

// What is sent and not recorded could not be billed after a crash: a stream that is billed by its
// progress does not go on without the disk.
net::Task<void> StreamRelay::await_disk() {
  while (progress_.is_stalled() && !request_.server.is_aborting()) {
    co_await net::Sleep(loop_, loop_.now() + kStallInterval);
  }
  progress_.tell_again(loop_.now());
}

net::Task<bool> StreamRelay::relay_events() {
  begin_head();
  for (;;) {
    const size_t covered = take_pieces();
    const bool is_last = is_holding_ || body_.is_done() || status_ != Status::kMore;
    const bool is_whole = body_.is_done() && status_ == Status::kMore && has_sent_nothing();
    if (is_whole) co_return true;  // send_end() sends all of it
    if (has_sent_nothing() && !co_await await_intent(request_)) co_return false;  // I1
    if (!is_last) progress_.note(reader_->facts(), loop_.now());
    if (!is_last && progress_.is_stalled()) co_await await_disk();
    co_await send_pieces(covered);
    if (is_last) co_return true;
    const MonotonicTime deadline = loop_.now() + request_.config->timeout_read;
    status_ = co_await body_.more(std::min(deadline, progress_.due()), kEventBytesMax);
    if (status_ == Status::kTimeout && loop_.now() < deadline) {
      progress_.tell(loop_.now());
      status_ = co_await body_.more(deadline, kEventBytesMax);
    }
  }
}

net::Task<void> StreamRelay::await_body_end() {
  const MonotonicTime deadline = loop_.now() + kEndWaitMax;
  while (is_holding_ && !body_.is_done() && status_ == Status::kMore) {
    status_ = co_await body_.more(deadline, kEventBytesMax);
    body_.consume(take_pieces());
    if (held_.size() > kHeldBytesMax) status_ = Status::kFull;
  }
}

void StreamRelay::note_evidence() {
  Evidence& evidence = request_.evidence;
  evidence.facts = reader_->facts();
  // A body without length or last chunk ends like a cut one; only what it said tells them apart.
  // Of an encoded one its coding does, for whoever decodes it.
  const bool has_end = exchange_.is_encoded || evidence.facts.final_figure.has_value();
  const bool is_whole =
      !body_.is_close_delimited() || (has_end && !ends_in_half_ && !is_event_open_);
  evidence.ended_normally = evidence.facts.saw_terminal || (body_.is_done() && is_whole);
}

net::Task<void> StreamRelay::send_end(bool is_recorded) {
  if (request_.evidence.ended_normally && is_recorded) {
    out_.add(held_);
    out_.add(unfinished_);
    co_await request_.send_to_client(out_.parts(head_, kLastChunk));
    co_return;
  }
  request_.is_cut = true;  // no last chunk: the client sees it
  if (is_recorded) {
    request_.end_as(cut_end(status_));
    out_.add(held_);
    out_.add(unfinished_);
    is_event_open_ |= !unfinished_.empty();
  }
  const Error error = is_recorded ? cut_error(status_) : cannot_record();
  const std::string event = error_event(request_.endpoint->dialect, error);
  if (is_event_open_) out_.add("\n\n");        // or it would swallow the error
  if (!exchange_.is_encoded) out_.add(event);  // bytes in plain would be none of its coding
  co_await request_.send_to_client(out_.parts(head_, ""));
}

// The client has its end, so its connection goes; what the backend still says can only settle the
// bill. It has the time of one silence for that, however it fills it, and none once the proxy
// stops.
net::Task<void> StreamRelay::await_late_figure() {
  const bool was_unresolved = request_.outcome.kind == Outcome::Kind::kUnresolved;
  if (!was_unresolved || !is_holding_ || status_ != Status::kTimeout) co_return;
  if (request_.server.is_draining()) co_return;
  request_.is_cut = true;
  request_.session.client.shutdown_write();
  request_.session.has_answered = true;
  const MonotonicTime deadline = loop_.now() + request_.config->timeout_read;
  status_ = Status::kMore;
  while (!body_.is_done() && status_ == Status::kMore) {
    status_ = co_await body_.more(deadline, kEventBytesMax);
    body_.consume(take_pieces());
    held_.clear();
  }
  note_evidence();
  co_await settle_late(request_);
}

}  // namespace

net::Task<MaybeError> relay_stream(Request& request, Exchange& exchange) {
  StreamRelay relay(request, exchange);
  if (!co_await relay.relay_events()) {
    request.evidence.is_unrecorded = true;
    co_return after_sending(cannot_record());
  }
  co_await relay.await_body_end();
  relay.note_evidence();
  const bool is_recorded = co_await settle(request);
  if (!is_recorded && relay.has_sent_nothing()) {
    end_exchange(request, exchange, relay.is_clean());
    co_return after_sending(cannot_record());
  }
  co_await relay.send_end(is_recorded);
  co_await relay.await_late_figure();
  end_exchange(request, exchange, relay.is_clean());
  co_return std::nullopt;
}

}  // namespace llmproxy
