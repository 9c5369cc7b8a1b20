// Reads segments: group by group, and record by record through all of them. The shipper's way
// through the log, recovery's, and the command line's. What is damaged is passed over and told; it
// never ends the process.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/aligned_memory.h"
#include "base/file.h"
#include "billing/ledger_log.h"
#include "billing/record.h"
#include "billing/segment.h"

namespace llmproxy {

// The groups of one segment, front to back.
class GroupCursor {
 public:
  // From `offset` on, where a group begins or the file has only zeros.
  GroupCursor(std::shared_ptr<File> file, size_t block_bytes, uint64_t offset);

  static constexpr uint64_t kUnknown = UINT64_MAX;

  // `end`: groups up to there are durable; what lies beyond may be half of a write that is under
  // way, and is not looked at. kOk: group() is the next one, at offset(). kEnd: `end` is reached,
  // or, if it is not known, nothing but zeros or the end of the file follow; a group written there
  // since is found by the next call. kDamaged: `size()` bytes at offset() are no group, but one may
  // follow; or error() says why they cannot be read, and nothing follows.
  GroupRead::State next(uint64_t end = kUnknown);

  const GroupRead& group() const { return group_; }  // its views last until next()
  uint64_t offset() const { return offset_; }
  uint64_t size() const { return size_; }
  int error() const { return error_; }

 private:
  std::string_view read(uint64_t offset, size_t size, uint64_t end);
  GroupRead::State look_on(uint64_t end);

  const std::shared_ptr<File> file_;
  const size_t block_bytes_;
  uint64_t offset_;
  uint64_t size_ = 0;
  int error_ = 0;
  GroupRead group_;
  AlignedMemory memory_;  // bytes_ of it, from bytes_at_ on in the file
  size_t bytes_ = 0;
  uint64_t bytes_at_ = 0;
  uint64_t reads_ = 0;
};

class LedgerReader {
 public:
  struct Item {
    uint64_t sequence = 0;
    Record record;
  };
  // Records up to the sequence `after` are passed over.
  explicit LedgerReader(uint64_t after) : last_(after) {}

  // Goes on from where it is through `segments` (all there are, oldest first), up to the sequence
  // `until`, which is durable. `segments` are as they were when it was. Adds groups of items until
  // there are `wanted`. False: it has got to `until`, or error() says why not.
  bool read(std::span<const SegmentView> segments, uint64_t until, size_t wanted,
            std::vector<Item>& items);

  uint64_t last_sequence() const { return last_; }  // of the last item, or the last one passed over
  // Of the last read(): where no records were, and which ones were missing.
  const std::vector<Damage>& damages() const { return damages_; }
  const std::vector<Gap>& gaps() const { return gaps_; }
  int error() const { return error_; }

 private:
  bool read_segment(const SegmentView& segment, uint64_t until, size_t wanted,
                    std::vector<Item>& items);
  void take_group(const SegmentView& segment, uint64_t until, std::vector<Item>& items);
  void pass_to(uint64_t sequence);
  void note_damage(const SegmentView& segment);

  uint64_t last_;
  uint64_t segment_ = 0;  // of cursor_
  std::unique_ptr<GroupCursor> cursor_;
  int error_ = 0;
  std::vector<Damage> damages_;
  std::vector<Gap> gaps_;
};

}  // namespace llmproxy
