// One function per kind of record; each says what it closes.
#include "billing/ledger_state.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "billing/bytes.h"
#include "billing/segment.h"

namespace llmproxy {
namespace {

constexpr std::string_view kSideMagic = "llmside\x1a";
constexpr size_t kSideFixed = 8 + 8 + 8 + 4;  // magic, sequence, length, crc

}  // namespace

size_t ObjectIdHash::operator()(const ObjectId& id) const {
  uint64_t word;  // the counter is in the last bytes
  std::memcpy(&word, id.bytes.data() + id.bytes.size() - sizeof word, sizeof word);
  return static_cast<size_t>(word * 0x9E3779B97F4A7C15ull);
}

void LedgerState::add_segment(uint64_t number, uint64_t first_sequence) {
  LLMPROXY_CHECK(segments_.empty() || number > segments_.rbegin()->first);
  Segment segment;
  segment.number = number;
  segment.first_sequence = first_sequence;
  segment.last_sequence = first_sequence - 1;
  segments_.emplace(number, segment);
  // What came before the oldest segment went because it was settled.
  if (segments_.size() > 1) return;
  mark_ = std::max(mark_, first_sequence - 1);
  last_sequence_ = std::max(last_sequence_, first_sequence - 1);
}

void LedgerState::drop_segment(uint64_t number) {
  const auto found = segments_.find(number);
  LLMPROXY_CHECK(found != segments_.end() && found->second.open == 0);
  const bool is_empty = found->second.last_sequence < found->second.first_sequence;
  LLMPROXY_CHECK(is_empty || found == segments_.begin());
  segments_.erase(found);
}

// An outcome, or a person's word: the id is neither open nor unresolved nor dead any more.
void LedgerState::close(const ObjectId& id) {
  const auto open = open_.find(id);
  if (open != open_.end()) {
    const auto segment = segments_.find(open->second.segment);
    if (segment != segments_.end()) --segment->second.open;
    open_.erase(open);
  }
  const bool was_unresolved = erase_unresolved(id), was_dead = dead_.erase(id) > 0;
  if (was_unresolved || was_dead) segments_.rbegin()->second.has_side_records = true;
}

size_t LedgerState::unresolved_of(std::string_view backend) const {
  const auto found = unresolved_of_.find(backend);
  return found == unresolved_of_.end() ? 0 : found->second;
}

void LedgerState::put_unresolved(const UnresolvedRecord& record, uint64_t segment) {
  erase_unresolved(record.intent.id);
  unresolved_.emplace(record.intent.id, Unresolved{record, segment});
  ++unresolved_of_[record.intent.backend];
}

bool LedgerState::erase_unresolved(const ObjectId& id) {
  const auto found = unresolved_.find(id);
  if (found == unresolved_.end()) return false;
  const auto count = unresolved_of_.find(found->second.record.intent.backend);
  if (--count->second == 0) unresolved_of_.erase(count);
  unresolved_.erase(found);
  return true;
}

// Each returns the invariant that the record breaks, or "".
struct LedgerState::Apply {
  LedgerState& state;
  Segment& segment;
  uint64_t sequence;

  std::string operator()(const IntentRecord& record) const {
    const auto [place, is_new] = state.open_.try_emplace(record.intent.id);
    Open& open = place->second;
    std::string problem;
    if (!is_new) {
      const auto before = state.segments_.find(open.segment);
      if (before != state.segments_.end()) --before->second.open;
      if (open.record != record) problem = "an intent was written again with other words";
    }
    open.record = record;
    open.segment = segment.number;
    open.sequence = sequence;
    ++segment.open;
    return problem;
  }
  std::string operator()(const ProgressRecord& record) const {
    const auto open = state.open_.find(record.id);
    // Not open: its intent lay in a segment that has gone, since a copy or its end comes further
    // on.
    if (open != state.open_.end()) open->second.progress = record;
    return "";
  }
  std::string operator()(const EventRecord& record) const {
    ++state.totals_.billed;
    count(record.origin);
    state.close(record.event.id);
    return "";
  }
  std::string operator()(const FreeRecord& record) const {
    ++state.totals_.free;
    count(record.origin);
    state.close(record.id);
    return "";
  }
  std::string operator()(const UnresolvedRecord& record) const {
    ++state.totals_.unresolved;
    const auto before = state.unresolved_.find(record.intent.id);
    const bool is_second =
        before != state.unresolved_.end() && before->second.segment != 0;  // 0: from the side file
    state.close(record.intent.id);
    state.put_unresolved(record, segment.number);
    segment.has_side_records = true;
    return is_second ? "a request became unresolved twice" : "";
  }
  std::string operator()(const MarkRecord& record) const {
    if (record.sequence > state.last_sequence_) return "a mark beyond the last record";
    // A replay may know better: what came before the oldest segment went because it was settled.
    state.mark_ = std::max(state.mark_, record.sequence);
    state.mark_segment_ = segment.number;
    return "";
  }
  std::string operator()(const DeadRecord& record) const {
    ++state.totals_.dead;
    state.dead_[record.event.id] = {record, segment.number};
    segment.has_side_records = true;
    return "";
  }
  std::string operator()(const ClosedRecord& record) const {
    state.close(record.id);
    return "";
  }

  void count(Origin origin) const {
    if (origin == Origin::kRecovered) ++state.totals_.recovered;
    if (origin == Origin::kLate) ++state.totals_.late;
    if (origin == Origin::kByHand) ++state.totals_.by_hand;
  }
};

std::string LedgerState::apply(const Record& record, uint64_t sequence) {
  LLMPROXY_CHECK(!segments_.empty());
  Segment& segment = segments_.rbegin()->second;
  std::string problem = std::visit(Apply{*this, segment, sequence}, record);
  if (sequence != last_sequence_ + 1) problem = "a gap between sequences";
  last_sequence_ = segment.last_sequence = sequence;
  return problem;
}

const LedgerState::Segment* LedgerState::find_settled() const {
  if (segments_.size() < 2) return nullptr;
  const Segment& oldest = segments_.begin()->second;
  const bool is_settled =
      oldest.last_sequence <= mark_ || oldest.last_sequence < oldest.first_sequence;
  const bool is_proven =
      mark_segment_ > oldest.number || oldest.last_sequence < oldest.first_sequence;
  return is_settled && is_proven ? &oldest : nullptr;
}

std::vector<Record> LedgerState::copies_of_open(uint64_t segment, size_t max) const {
  std::vector<Record> copies;
  for (const auto& [id, open] : open_) {
    if (open.segment != segment) continue;
    if (copies.size() + 2 > max) break;
    copies.emplace_back(open.record);
    if (open.progress) copies.emplace_back(*open.progress);
  }
  return copies;
}

// side = "llmside\x1a"  u64 sequence  u64 length  u32 crc  (u8 type  text record)*, of `length`
// bytes
std::string LedgerState::side_file() const {
  std::string body, one;
  const auto add = [&](const Record& record) {
    one.clear();
    append_record(one, record);
    append_number(body, record_type(record));
    append_text(body, one);
  };
  for (const auto& [id, unresolved] : unresolved_) add(unresolved.record);
  for (const auto& [id, dead] : dead_) add(dead.record);
  std::string file(kSideMagic);
  append_number(file, last_sequence_);
  append_number(file, static_cast<uint64_t>(body.size()));
  append_number(file, crc32c(body));
  return file + body;
}

bool LedgerState::read_side_file(std::string_view bytes) {
  if (bytes.size() < kSideFixed || !bytes.starts_with(kSideMagic)) return false;
  ByteReader head(bytes.substr(kSideMagic.size()));
  head.number<uint64_t>();
  const auto length = head.number<uint64_t>();
  const auto crc = head.number<uint32_t>();
  if (length > bytes.size() - kSideFixed) return false;
  const std::string_view body = bytes.substr(kSideFixed, length);
  if (crc32c(body) != crc) return false;
  ByteReader in(body);
  while (!in.is_at_end()) {
    const auto type = in.number<uint8_t>();
    const std::optional<Record> record = read_record(type, in.text());
    if (!in.ok() || !record) return false;
    if (const auto* unresolved = std::get_if<UnresolvedRecord>(&*record)) {
      put_unresolved(*unresolved, 0);
    } else if (const auto* dead = std::get_if<DeadRecord>(&*record)) {
      dead_[dead->event.id] = {*dead, 0};
    } else {
      return false;
    }
  }
  return true;
}

void LedgerState::note_side_file(uint64_t sequence) {
  for (auto& [number, segment] : segments_) {
    if (segment.last_sequence <= sequence) segment.has_side_records = false;
  }
}

}  // namespace llmproxy
