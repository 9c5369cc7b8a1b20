// The durable log as a step function: what is appended becomes one group, one write at a time;
// segments are taken, given up after a failed write, and let go when nothing in them is needed. It
// calls no clock, thread or lock: the ledger's threads drive it in the program, and the simulator
// in the tests.
//
//   append ... append   begin_write -> File::write -> end_write   append ...       (the writer)
//   next_chore -> run_chore -> end_chore                                           (the keeper)
//
// Every function but run_chore, and the File::write of the writer, is short and must be called
// under one lock.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "billing/ledger_state.h"
#include "billing/quarantine.h"
#include "billing/segment.h"
#include "billing/settlement.h"

namespace llmproxy {

// A segment as a reader needs it. The file stays open as long as someone has the view.
struct SegmentView {
  uint64_t number = 0;
  uint64_t first_sequence = 0;
  uint64_t last_sequence = 0;  // what lies beyond does not count
  uint64_t end_bytes = 0;      // where what counts ends
  size_t header_bytes = 0;
  size_t block_bytes = 0;
  std::shared_ptr<File> file;
};

// Bytes of a segment that are no records, and the last sequence before them.
struct Damage {
  uint64_t segment = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t after = 0;
};

// Records that were durable and are not there.
struct Gap {
  uint64_t first = 0;
  uint64_t last = 0;
  bool operator==(const Gap&) const = default;
};

class LedgerLog {
 public:
  struct Settings {
    uint64_t max_bytes = uint64_t{4} << 30;       // of all segments together
    uint64_t segment_bytes = uint64_t{16} << 20;  // at least kSegmentBlocksMin blocks
    size_t segments_max = 16'384;                 // for new work; a header takes twice as many
    Milliseconds probe_interval{1'000};           // between two tries while the disk fails
  };
  static constexpr size_t kSparesMin = 2;    // beside the one that is written to: or no new work
  static constexpr size_t kSparesAhead = 2;  // used up before that when a file system is slow
  static constexpr int kFullPercent = 90;    // no segment for new work beyond
  static constexpr int kWarnPercent = 70;
  // While the oldest segment waits for this: so many open intents are written again in one group,
  // and, where others wait too, in a part of it. So they get on however much is appended.
  static constexpr size_t kCopiesMax = 1000;
  static constexpr size_t kCopiesPart = 4;
  // Of blocks, in a segment: fewer would not take a header and some groups.
  static constexpr uint64_t kSegmentBlocksMin = 16;

  // What recovery found; state holds what is durable and counts, `views` its segments, oldest
  // first.
  struct Start {
    LedgerState state;
    std::vector<SegmentView> views;
    uint64_t next_segment = 1;
    SegmentHeader header;  // block size, instance, boot, database
    // So many of the records that are appended first are a copy of the tail, which takes so many
    // bytes as one group. It goes out in one whatever size groups have now: the header before it
    // cuts the old one off.
    size_t tail = 0;
    size_t tail_bytes = 0;
    std::vector<Damage> kept, unkept;  // in the quarantine, or not yet: see quarantine()
  };
  LedgerLog(Directory& directory, Settings settings, Start start);

  // Room. A request takes what its records can need at most, before its call goes out, and gives it
  // back when its outcome is durable or given up. False: full, or the disk fails.
  size_t room_for(size_t record_bytes) const;
  bool reserve(size_t room);
  void give_back(size_t room);

  struct Append {
    Record record{};
    Waiter* waiter = nullptr;  // may be null
    bool gives_up =
        false;  // when the disk fails: dropped, and told so. Others stay until it works again.
    size_t room = 0;          // what it gives back when it is durable or dropped
    bool is_awaited = false;  // somebody waits for `waiter` to be told
  };
  void append(Append&& append) { pending_.push_back(std::move(append)); }
  void append(std::span<Append> appends);  // all, or none where memory runs out
  // The next group ends with a mark. Only ever grows.
  void set_mark(uint64_t sequence);
  // A chore puts these bytes into the quarantine, once. Until then no mark passes them, and their
  // segment is neither cut nor removed.
  void quarantine(const Damage& damage);

  struct Told {
    Append append;  // its record is the caller's now
    bool is_durable = false;
  };
  struct Write {
    std::shared_ptr<File> file;
    uint64_t offset;
    std::string_view bytes;
  };
  // What to write now, if there is anything: what was appended, copies of open intents, a mark, or
  // a probe of a disk that failed. Then end_write() must follow. `witness`: an empty group if there
  // is nothing else.
  std::optional<Write> begin_write(MonotonicTime now, bool witness = false);
  // Adds what has become durable, or was given up, in order; copies and marks of its own are not
  // among them.
  void end_write(int error, MonotonicTime now, std::vector<Told>& told);

  // When begin_write() should be called although nothing was appended: nothing, or a time.
  std::optional<MonotonicTime> next_try() const { return retry_at_; }

  // Work on files that nobody waits for.
  struct Chore {
    enum class Kind : uint8_t { kMakeSpare, kCut, kSaveSide, kRemove, kQuarantine };
    Kind kind = Kind::kMakeSpare;
    uint64_t number = 0;    // of the segment
    uint64_t sequence = 0;  // kSaveSide
    uint64_t offset = 0;    // kQuarantine
    uint64_t bytes = 0;     // kMakeSpare, kCut: its size; kQuarantine
    std::string content{};  // kSaveSide; kQuarantine, once it has run: what to tell
    std::shared_ptr<File> file{};
  };
  std::optional<Chore> next_chore(MonotonicTime now);
  bool has_chore(MonotonicTime now) const { return pick_chore(now).has_value(); }
  int run_chore(Chore& chore);  // under no lock
  void end_chore(const Chore& chore, int error, MonotonicTime now);
  // When next_chore() should be called again after a chore failed.
  std::optional<MonotonicTime> next_chore_at() const { return chore_retry_at_; }

  const LedgerState& state() const { return state_; }
  uint64_t durable_sequence() const { return state_.last_sequence(); }
  std::vector<SegmentView> views() const;
  bool has_pending() const {
    return !pending_.empty() || !group_.empty();
  }                         // records that somebody appended
  bool has_upkeep() const;  // a mark, or copies of open intents: can wait for others to come along
  bool is_writing() const { return is_writing_; }
  bool is_failing() const { return is_failing_; }
  bool wants_spare() const;  // a chore should make one
  bool is_ready() const;     // there is a segment to write to, and the spares
  bool has_many_segments() const { return closed_.size() >= settings_.segments_max; }  // or bytes
  uint64_t bytes_used() const;  // of all segments, spares among them
  uint64_t bytes_available() const;
  uint64_t bytes_reserved() const { return reserved_; }
  int last_error() const { return last_error_; }  // errno of the latest failed write

 private:
  struct Segment {
    SegmentView view;
    uint64_t size = 0;    // of the file
    bool is_cut = false;  // to what counts
    uint64_t used() const { return view.end_bytes; }
  };

  // First in, first out, in an array that is kept: a deque would allocate for each.
  class Pending {
   public:
    static constexpr size_t kKeptMax = 1024;

    bool empty() const { return begin_ == all_.size(); }
    size_t size() const { return all_.size() - begin_; }
    auto begin() { return all_.begin() + static_cast<ptrdiff_t>(begin_); }
    auto end() { return all_.end(); }
    auto begin() const { return all_.begin() + static_cast<ptrdiff_t>(begin_); }
    auto end() const { return all_.end(); }
    void reserve(size_t more) { all_.reserve(all_.size() + more); }
    void push_back(Append&& append);
    Append take_front();

   private:
    std::vector<Append> all_;
    size_t begin_ = 0;  // those before it were taken
  };

  void fill_group();
  void take_pending();
  uint64_t spare_bytes() const;
  uint64_t mark_wanted() const;
  bool has_unkept(uint64_t segment) const;
  void add_copies(size_t most);
  void add_to_group(Append&& append);
  bool has_settled_work() const;
  bool has_pending_dead() const;
  bool needs_mark() const;
  bool place_group();
  bool take_spare();
  void close_current();
  void add_closed(Segment segment);
  void give_up(std::vector<Told>& told);
  void clear_group();
  size_t header_room() const;
  uint64_t usable(const Segment& segment) const;
  std::optional<Chore> pick_chore(MonotonicTime now) const;
  std::optional<Chore> pick_spare() const;
  std::optional<Chore> pick_removal() const;
  std::optional<Chore> pick_cut() const;
  std::optional<Chore> pick_quarantine() const;
  int run_quarantine(Chore& chore);

  Directory& directory_;
  const Settings settings_;
  const size_t group_bytes_max_;
  LedgerState state_;
  SegmentHeader header_;  // the words that all headers share
  uint64_t next_segment_;
  size_t tail_, tail_bytes_;  // 0 once it is durable again

  Pending pending_;            // appended, in no group yet
  std::vector<Append> group_;  // in the group in hand: being written, or to be written again
  GroupBuilder builder_;
  std::string first_write_;  // header and group, for the first write of a segment
  std::string scratch_;
  uint64_t mark_to_write_ = 0;
  uint64_t reserved_ = 0;

  std::optional<Segment> current_;
  std::deque<Segment> spares_;
  std::map<uint64_t, Segment> closed_;  // by number
  std::set<uint64_t> empty_;            // of them, those in which nothing counts
  std::deque<Segment> failed_;          // nothing in them counts: to be removed
  std::deque<Damage> unkept_;
  std::set<std::pair<uint64_t, uint64_t>> kept_;  // segment and offset of what is not in unkept_
  Quarantine quarantine_;                         // the keeper's
  size_t copies_ = 0;      // records at the front of group_ that nobody appended
  bool has_mark_ = false;  // nor its last one
  size_t write_bytes_ = 0;
  bool is_writing_ = false;
  bool has_failed_once_ = false;  // the group in hand
  bool is_failing_ = false;       // and twice
  bool is_chore_under_way_ = false;
  int last_error_ = 0;
  std::optional<MonotonicTime> retry_at_, chore_retry_at_;
  std::optional<Chore::Kind> failed_kind_;  // of the chore that failed the last time
};

}  // namespace llmproxy
