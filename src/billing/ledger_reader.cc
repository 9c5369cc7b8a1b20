// Reads in pieces that are a multiple of every block size, so that O_DIRECT takes them.
#include "billing/ledger_reader.h"

#include <algorithm>
#include <utility>

namespace llmproxy {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr uint64_t kAlignment = AlignedMemory::kAlignment;

}  // namespace

GroupCursor::GroupCursor(std::shared_ptr<File> file, size_t block_bytes, uint64_t offset)
    : file_(std::move(file)), block_bytes_(block_bytes), offset_(offset) {}

// At least `size` bytes from `offset` on, or fewer where the file ends or cannot be read; perhaps
// more, up to about `end`. The file's blocks may be smaller than those of the device that it lies
// on now.
std::string_view GroupCursor::read(uint64_t offset, size_t size, uint64_t end) {
  const bool is_there = offset >= bytes_at_ && offset + size <= bytes_at_ + bytes_;
  if (!is_there) {
    bytes_at_ = offset / kAlignment * kAlignment;
    const size_t least = size + static_cast<size_t>(offset - bytes_at_);
    const size_t wanted = std::max(least, std::min(kPieceBytes, end - bytes_at_));
    const size_t rounded = (wanted + kAlignment - 1) / kAlignment * kAlignment;
    ++reads_;
    bytes_ = 0;
    error_ = file_->read(bytes_at_, {memory_.at_least(rounded), rounded}, bytes_);
    if (error_ != 0) bytes_ = 0;
  }
  const std::string_view all(memory_.at_least(0), bytes_);
  return all.substr(std::min(static_cast<size_t>(offset - bytes_at_), bytes_));
}

GroupRead::State GroupCursor::next(uint64_t end) {
  using State = GroupRead::State;
  const uint64_t begin = offset_ + std::exchange(size_, 0);
  offset_ = begin;
  error_ = 0;
  if (begin >= end) return State::kEnd;
  size_t wanted = block_bytes_;
  for (const uint64_t reads_before = reads_;;) {
    const std::string_view bytes = read(begin, wanted, end);
    if (error_ != 0) return State::kDamaged;
    group_ = read_group(bytes, block_bytes_);
    if (group_.state == State::kMore && bytes.size() >= wanted && group_.size > wanted) {
      wanted = group_.size;
    } else if (group_.state == State::kOk && group_.size <= end - begin) {
      size_ = group_.size;
      return State::kOk;
    } else if (reads_ == reads_before) {
      bytes_ = 0;  // read when this was still being written
    } else {
      return look_on(end);
    }
  }
}

// Where the end is not known, zeros are it only if nothing follows: a block may have been lost. So
// this goes to the next group, or to where there are only zeros.
GroupRead::State GroupCursor::look_on(uint64_t end) {
  using State = GroupRead::State;
  uint64_t last = offset_;
  for (uint64_t at = offset_; at < end; at += block_bytes_) {
    const std::string_view bytes = read(at, block_bytes_, end);
    if (error_ != 0) return State::kDamaged;
    GroupRead found = read_group(bytes, block_bytes_);
    if (found.state == State::kMore && bytes.size() >= block_bytes_)
      found = read_group(read(at, found.size, end), block_bytes_);
    if (error_ != 0) return State::kDamaged;
    if (found.state == State::kOk && at > offset_ && found.size <= end - at) {
      size_ = at - offset_;
      return State::kDamaged;
    }
    if (bytes.size() < block_bytes_) {
      const bool is_zero = bytes.find_first_not_of('\0') == std::string_view::npos;
      if (!is_zero) last = at + bytes.size();
      break;
    }
    if (found.state != State::kEnd) last = at + block_bytes_;
  }
  size_ = (end == kUnknown ? last : end) - offset_;
  bytes_ = 0;  // a group may be written there
  return size_ > 0 ? State::kDamaged : State::kEnd;
}

// What comes next has a sequence beyond this one.
void LedgerReader::pass_to(uint64_t sequence) {
  if (sequence <= last_) return;
  gaps_.push_back({last_ + 1, sequence});
  last_ = sequence;
}

void LedgerReader::note_damage(const SegmentView& segment) {
  damages_.push_back({segment.number, cursor_->offset(), cursor_->size(), last_});
}

void LedgerReader::take_group(const SegmentView& segment, uint64_t until,
                              std::vector<Item>& items) {
  const uint64_t most = std::min(until, segment.last_sequence);
  for (const FramedRecord& framed : cursor_->group().records) {
    if (framed.sequence <= last_ || framed.sequence > most) continue;
    pass_to(framed.sequence - 1);
    std::optional<Record> record = read_record(framed.type, framed.payload);
    if (!record) {
      note_damage(segment);
      pass_to(framed.sequence);
      continue;
    }
    last_ = framed.sequence;
    items.push_back({framed.sequence, std::move(*record)});
  }
}

// False: the segment has nothing more that counts.
bool LedgerReader::read_segment(const SegmentView& segment, uint64_t until, size_t wanted,
                                std::vector<Item>& items) {
  using State = GroupRead::State;
  const uint64_t most = std::min(until, segment.last_sequence);
  const uint64_t end = segment.end_bytes == 0 ? GroupCursor::kUnknown : segment.end_bytes;
  while (last_ < most) {
    if (items.size() >= wanted) return true;
    const State state = cursor_->next(end);
    if (state == State::kEnd) {
      if (end != GroupCursor::kUnknown) pass_to(most);
      return false;
    }
    if (state == State::kDamaged && cursor_->error() != 0) {
      error_ = cursor_->error();
      return false;
    }
    if (state == State::kDamaged) {
      note_damage(segment);
      continue;
    }
    take_group(segment, until, items);
  }
  return false;
}

bool LedgerReader::read(std::span<const SegmentView> segments, uint64_t until, size_t wanted,
                        std::vector<Item>& items) {
  error_ = 0;
  damages_.clear();
  gaps_.clear();
  for (const SegmentView& segment : segments) {
    if (segment.number < segment_ || segment.last_sequence <= last_) continue;
    pass_to(std::min(segment.first_sequence - 1, until));
    if (last_ >= until) return false;
    if (segment.number != segment_) {
      segment_ = segment.number;
      cursor_ =
          std::make_unique<GroupCursor>(segment.file, segment.block_bytes, segment.header_bytes);
    }
    if (read_segment(segment, until, wanted, items)) return true;
    if (last_ >= until || error_ != 0) return false;
  }
  pass_to(until);
  return false;
}

}  // namespace llmproxy
