// The bytes of the ledger's files: segments of groups of records. Pure: bytes in, values out.
//
// A segment is a file NUMBER.segment (16 hex digits), zero-filled when it is made and written from
// the front, a whole number of blocks at a time; never used again when it is full. All integers are
// little-endian; crc is CRC32C.
//
// clang-format off
//   segment = header  group*  zero*
//   header  = "llmledg\x1a"  u32 version  u32 block_bytes  u32 length  u32 crc
//             u64 number  u64 first_sequence  instance[16]  boot[16]  text database
//             u32 n  (u64 number  u64 last_sequence)*n
//             padded to blocks
//   group   = "GRP\x1a"  u32 length  u32 crc  u32 count  u64 first_sequence  u64 durable_before
//             record*count
//             padded to blocks
//   record  = u32 length  u32 crc  u8 type  zero[3]  u64 sequence  bytes[length]
// clang-format on
//
// `length` is that of header or group without its padding; `crc` covers what follows it, up to
// there (a record's: from its type to its end; a header's: also version, block_bytes and length).
// Sequences have no gaps: a group holds first_sequence to first_sequence + count - 1, and
// everything up to durable_before was durable when it was written. Only one group is ever being
// written, so the groups prove one another, and the last one is the only one that may be torn; a
// clean stop ends with an empty group.
// Newer versions keep the meaning of all up to a header's crc, so that one can be told from damage.
//
// The numbers in a header are those of the older segments that were there, each with the last
// sequence that counts in it: a group that was written again elsewhere, after a failed write, is
// never read twice.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace llmproxy {

constexpr uint32_t kSegmentVersion = 1;
constexpr size_t kGroupBytesMax = size_t{1} << 20;  // with its padding
constexpr size_t kHeaderBytesMax = size_t{1} << 20;
// Greater ones are not read. A start over files with more than half of them is refused, so that
// what it writes can be read again.
constexpr uint64_t kSegmentNumberMax = uint64_t{1} << 62;
constexpr uint64_t kSequenceMax = uint64_t{1} << 62;

using Nonce = std::array<uint8_t, 16>;

struct Cutoff {
  uint64_t number = 0;
  uint64_t last_sequence = 0;  // 0: nothing in it counts
  bool operator==(const Cutoff&) const = default;
};

struct SegmentHeader {
  uint32_t block_bytes = 4096;
  uint64_t number = 0;
  uint64_t first_sequence = 0;  // no record in it has a lower one
  Nonce instance{};             // of the ledger, from its first segment on
  Nonce boot{};                 // of the process that made this segment
  std::string database;         // whose events these are: see RecoveryOptions
  std::vector<Cutoff> cutoffs;  // ascending by number
  bool operator==(const SegmentHeader&) const = default;
};

std::string segment_name(uint64_t number);
std::optional<uint64_t> segment_number(std::string_view name);  // nothing: not a segment's name

void append_header(std::string& out, const SegmentHeader& header);

struct HeaderRead {
  enum class State : uint8_t {
    kOk,
    kUnused,   // zeros: a spare segment
    kDamaged,  // torn or spoiled
    kNewer,    // whole, of a version that this program does not know
    kMore,     // `bytes` end before the header does
  };
  State state = State::kDamaged;
  SegmentHeader header{};
  size_t size = 0;  // with its padding; kMore: what is needed
};
HeaderRead read_header(std::string_view bytes);

// Builds one group. Records are framed as they come; seal() gives them their numbers.
class GroupBuilder {
 public:
  static constexpr size_t kHeadBytes = 32;  // of a group without records

  GroupBuilder();
  void add(uint8_t type, std::string_view payload);
  size_t count() const { return count_; }
  // Its bytes so far, without padding.
  size_t size() const { return bytes_.size(); }
  static size_t framed_size(size_t payload);  // what add() of so many bytes adds

  // The finished bytes, padded to blocks; valid until clear(). Calling it again with other numbers
  // is allowed: the same group goes to another segment.
  std::string_view seal(uint64_t first_sequence, uint64_t durable_before, size_t block_bytes);
  void clear();

 private:
  std::string bytes_;
  size_t count_ = 0;
};

struct FramedRecord {
  uint8_t type = 0;
  uint64_t sequence = 0;
  std::string_view payload;
};

struct GroupRead {
  enum class State : uint8_t {
    kOk,
    kEnd,      // zeros: nothing was written here
    kDamaged,  // neither: torn, spoiled or no group
    kMore,     // `bytes` end before the group does
  };
  State state = State::kDamaged;
  uint64_t first_sequence = 0;
  uint64_t durable_before = 0;
  std::vector<FramedRecord> records{};  // views into `bytes`
  size_t size = 0;                      // with its padding; kMore: what is needed

  uint64_t last_sequence() const {
    return first_sequence + records.size() - 1;
  }  // of an empty one: the one before
};
GroupRead read_group(std::string_view bytes, size_t block_bytes);

// `before`: the checksum of what comes before these bytes.
uint32_t crc32c(std::string_view bytes, uint32_t before = 0);

}  // namespace llmproxy
