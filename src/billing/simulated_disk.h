// A disk in memory that keeps only what base/file.h promises, for tests of what stands on it. A
// header alone, for *_test.cc and fuzz targets: no part of the program. One thread; everything it
// does follows from its seed.
//
//   for (uint64_t step = 1;; ++step) {
//     SimulatedDisk disk(seed);
//     disk.crash_at({.first = step});
//     try {
//       run(*disk.open());            // the code under test
//     } catch (const SimulatedCrash&) {
//     }
//     const bool is_last = !disk.has_crashed();
//     disk.crash();                   // or kill()
//     verify(*disk.open());           // what is there for the next start
//     if (is_last) break;
//   }
//
// The exception comes out of every call after the crash too, so nothing may be called from
// destructors. Sweeps of many runs are three times as fast after
// mallopt(M_TRIM_THRESHOLD, 64 << 20): else every run gives its pages back to the kernel.
//
// A power cut leaves what was durable and, of what was not, any part: of each write any of its
// sectors of 512 bytes, in any order; of the names made, renamed and removed since the last sync()
// any, but a change only after earlier ones to the same names. So a renamed file has its old or its
// new name, unless its creation was lost; then it is gone.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/file.h"

namespace llmproxy {

// The process is dead. No std::exception, so that nothing catches it that was meant for others.
struct SimulatedCrash {};

class SimulatedDisk {
 public:
  static constexpr size_t kSectorBytes = 512;
  static constexpr uint64_t kForever = ~uint64_t{0};

  enum class Call : uint8_t {
    kList,
    kOpen,
    kCreate,
    kRename,
    kRemove,
    kSync,
    kFreeBytes,
    kRead,
    kWrite,
    kTruncate,
    kSize,
  };

  // Which call is meant: the `first`th from now on (1: the next) of those that fit.
  struct Point {
    uint64_t first = 1;
    std::optional<Call> call{};  // nothing: of any kind
    std::string name_end{};      // of files whose name ends so; list, sync and free_bytes have ""
  };

  // What a failed call leaves behind. A write counts for its sectors; other calls happen whole or
  // not at all, but a failed list tells part of the names, and a failed read spoils the memory.
  enum class Left : uint8_t {
    kNothing,
    kPart,        // some of it, durable
    kUntilCrash,  // some of it, which is seen, and gone after a power cut
    kAny,         // any of these, or all of it
  };

  struct Fault {
    Point point{};
    int error = EIO;
    uint64_t times = 1;  // so many fitting calls in a row fail
    Left left = Left::kAny;
  };

  explicit SimulatedDisk(uint64_t seed, size_t block_bytes = kSectorBytes)
      : random_(seed), block_bytes_(block_bytes) {}
  SimulatedDisk(const SimulatedDisk&) = delete;
  SimulatedDisk& operator=(const SimulatedDisk&) = delete;

  // A start of the program: a Directory over what is there, with the lock; null while another one
  // has it. After a crash only once crash() or kill() told which. Goes before the disk, as do all
  // Files.
  std::unique_ptr<Directory> open();
  std::unique_ptr<Directory> open_to_read();

  // The end of a life, also between two calls. What is open throws from now on; faults stay.
  void crash();  // power cut, or the kernel died
  void kill();   // the process died: what was written can be read, if not durable yet. Of the
                 // write under way the first sectors are written, any number of them

  void crash_at(Point point) { crash_points_.push_back(std::move(point)); }
  void add_fault(Fault fault) { faults_.push_back(std::move(fault)); }
  void fail_at(uint64_t n, int error) { add_fault({.point = {.first = n}, .error = error}); }
  void fail_from(uint64_t n, int error) {
    add_fault({.point = {.first = n}, .error = error, .times = kForever});
  }
  void clear_faults() { faults_.clear(); }

  // Room for all files. Creating and growing beyond it is ENOSPC.
  void set_capacity(uint64_t bytes) { capacity_ = bytes; }

  // For control runs, in which a test has to see losses: writes return before they are durable,
  // and become so some writes later.
  void set_lying(bool is_lying) { is_lying_ = is_lying; }

  bool has_crashed() const { return is_dead_; }    // inside a call, and nothing told which kind
  uint64_t steps() const { return steps_; }        // calls in this life
  uint64_t faults_hit() const { return failed_; }  // calls that failed by add_fault, in all lives

  // One line a call, for a seed that fails; null ends it.
  void set_trace(std::vector<std::string>* lines) { trace_ = lines; }

  // Behind the program's back, no steps.
  std::vector<std::string> names() const;
  std::optional<std::string> content(const std::string& name) const;  // as read() would show it
  void put(const std::string& name, std::string bytes);               // durable, with its name
  void spoil(const std::string& name, uint64_t offset, std::string_view bytes);  // durable

 private:
  friend class SimulatedFile;
  friend class SimulatedDirectory;

  // Output of mt19937_64 is the standard's; that of distributions and of std::shuffle is not.
  class Random {
   public:
    explicit Random(uint64_t seed) : engine_(seed) {}
    uint64_t below(uint64_t n) { return engine_() % n; }
    bool chance(uint64_t of_n) { return below(of_n) == 0; }  // one in n
    bool coin() { return chance(2); }

   private:
    std::mt19937_64 engine_;
  };

  using Sectors = std::vector<bool>;

  // A write, or what is left of it, that a power cut may take away.
  struct Pending {
    uint64_t offset = 0;
    std::string bytes;
    Sectors sectors;         // which of them there are
    bool is_doomed = false;  // is gone after a power cut
  };

  struct Inode {
    std::string name;     // its last
    std::string durable;  // without zeros at its end that were never written
    uint64_t durable_size = 0;
    uint64_t size = 0;             // as it is seen
    std::vector<Pending> pending;  // seen above `durable`, the last on top
    bool has_failed = false;       // a write did: what comes after it proves nothing
  };
  using Names = std::map<std::string, std::shared_ptr<Inode>>;

  struct Change {
    Call call;  // kCreate, kRename or kRemove
    std::string name;
    std::string to;                // kRename
    std::shared_ptr<Inode> inode;  // kCreate
  };

  struct UnderWay {
    std::shared_ptr<Inode> inode;
    uint64_t offset;
    std::string bytes;
  };

  struct Verdict {
    bool crashes = false;
    int error = 0;
    Left left = Left::kNothing;
  };

  static bool matches(const Point& point, Call call, std::string_view name, std::string_view to) {
    return (!point.call || *point.call == call) &&
           (name.ends_with(point.name_end) || to.ends_with(point.name_end));
  }
  static Sectors all_of(size_t bytes) { return Sectors(bytes / kSectorBytes, true); }
  static bool apply(Names& names, const Change& change);
  static void copy_sectors(const Pending& from, uint64_t begin, std::span<char> into);
  static void write_durable(Inode& inode, uint64_t offset, std::string_view bytes);
  static void forget(Inode& inode, uint64_t begin, uint64_t end);
  static void cut(Inode& inode, uint64_t size);
  static void commit_size(Inode& inode);
  static void see(const Inode& inode, uint64_t offset, std::span<char> into);

  Verdict begin(uint64_t life, Call call, std::string_view name, std::string_view to = "");
  [[noreturn]] void die() {
    is_dead_ = true;
    throw SimulatedCrash{};
  }
  // An argument is wrong: nothing happens.
  int refuse(const Verdict& verdict, int error) {
    if (error != 0 && verdict.crashes) die();
    return error;
  }
  template <class... Args>
  int end(int error, fmt::format_string<Args...> format, Args&&... args) {
    if (trace_ != nullptr) {
      const std::string what = fmt::format(format, std::forward<Args>(args)...);
      trace_->push_back(fmt::format("{}: {} = {}", steps_, what, error));
    }
    return error;
  }
  Sectors some_of(size_t count);
  void begin_life();
  void settle(Inode& inode);
  void settle_names();
  void change(Change change);
  uint64_t used_bytes() const;
  void write_back();
  void leave_part_of_write(Inode& inode, uint64_t offset, std::string_view bytes, Left left);

  int list(const Verdict& verdict, std::vector<std::string>& names);
  int create(const Verdict& verdict, const std::string& name, uint64_t size,
             std::shared_ptr<Inode>& inode);
  int change_name(const Verdict& verdict, Change wanted);
  int sync(const Verdict& verdict);
  int write(const Verdict& verdict, const std::shared_ptr<Inode>& inode, uint64_t offset,
            std::string_view bytes);
  int read(const Verdict& verdict, const Inode& inode, uint64_t offset, std::span<char> into,
           size_t& n);
  int truncate(const Verdict& verdict, Inode& inode, uint64_t size);

  Random random_;
  const size_t block_bytes_;
  Names names_;          // as they are seen
  Names durable_names_;  // at the last sync()
  std::vector<Change> changes_;
  std::optional<UnderWay> under_way_;
  std::vector<Point> crash_points_;
  std::vector<Fault> faults_;
  uint64_t capacity_ = kForever;
  bool is_lying_ = false;
  bool is_dead_ = false;
  bool is_owned_ = false;
  uint64_t life_ = 0;
  uint64_t steps_ = 0;
  uint64_t failed_ = 0;
  std::vector<std::string>* trace_ = nullptr;
};

// Files and directories: arguments are looked at here, the rest is the disk's.

class SimulatedFile final : public File {
 public:
  SimulatedFile(SimulatedDisk& disk, std::shared_ptr<SimulatedDisk::Inode> inode, bool is_read_only)
      : disk_(disk), life_(disk.life_), inode_(std::move(inode)), is_read_only_(is_read_only) {}

  int write(uint64_t offset, std::string_view bytes) override {
    const auto verdict = disk_.begin(life_, Call::kWrite, inode_->name);
    int error = disk_.refuse(verdict, is_read_only_ ? EROFS : misaligned(offset | bytes.size()));
    if (error == 0) error = disk_.write(verdict, inode_, offset, bytes);
    return disk_.end(error, "write {} {}+{}", inode_->name, offset, bytes.size());
  }
  int read(uint64_t offset, std::span<char> into, size_t& n) override {
    const auto verdict = disk_.begin(life_, Call::kRead, inode_->name);
    n = 0;
    int error = disk_.refuse(verdict, misaligned(offset | into.size()));
    if (error == 0) error = disk_.read(verdict, *inode_, offset, into, n);
    return disk_.end(error, "read {} {}+{}", inode_->name, offset, into.size());
  }
  int truncate(uint64_t size) override {
    const auto verdict = disk_.begin(life_, Call::kTruncate, inode_->name);
    int error = disk_.refuse(verdict, is_read_only_ ? EROFS : 0);
    if (error == 0) error = disk_.truncate(verdict, *inode_, size);
    return disk_.end(error, "truncate {} {}", inode_->name, size);
  }
  int size(uint64_t& bytes) override {
    const auto verdict = disk_.begin(life_, Call::kSize, inode_->name);
    if (verdict.crashes) disk_.die();
    bytes = inode_->size;
    return disk_.end(verdict.error, "size {}", inode_->name);
  }

 private:
  using Call = SimulatedDisk::Call;
  int misaligned(uint64_t value) const { return value % disk_.block_bytes_ == 0 ? 0 : EINVAL; }

  SimulatedDisk& disk_;
  const uint64_t life_;
  const std::shared_ptr<SimulatedDisk::Inode> inode_;
  const bool is_read_only_;
};

class SimulatedDirectory final : public Directory {
 public:
  SimulatedDirectory(SimulatedDisk& disk, bool is_read_only)
      : disk_(disk), life_(disk.life_), is_read_only_(is_read_only) {}
  ~SimulatedDirectory() override {
    if (!is_read_only_ && life_ == disk_.life_) disk_.is_owned_ = false;
  }

  int list(std::vector<std::string>& names) override {
    const auto verdict = disk_.begin(life_, Call::kList, "");
    return disk_.end(disk_.list(verdict, names), "list");
  }
  int open(const std::string& name, std::unique_ptr<File>& file) override {
    const auto verdict = disk_.begin(life_, Call::kOpen, name);
    file.reset();
    if (verdict.crashes) disk_.die();
    int error = is_file_name(name) ? verdict.error : EINVAL;
    const auto found = disk_.names_.find(name);
    if (error == 0 && found == disk_.names_.end()) error = ENOENT;
    if (error == 0) file = std::make_unique<SimulatedFile>(disk_, found->second, is_read_only_);
    return disk_.end(error, "open {}", name);
  }
  int create(const std::string& name, uint64_t size, std::unique_ptr<File>& file) override {
    const auto verdict = disk_.begin(life_, Call::kCreate, name);
    file.reset();
    std::shared_ptr<SimulatedDisk::Inode> inode;
    int error = refusal(name);
    if (error == 0 && size % block_bytes() != 0) error = EINVAL;
    error = disk_.refuse(verdict, error);
    if (error == 0) error = disk_.create(verdict, name, size, inode);
    if (error == 0) file = std::make_unique<SimulatedFile>(disk_, std::move(inode), false);
    return disk_.end(error, "create {} {}", name, size);
  }
  int rename(const std::string& from, const std::string& to) override {
    const auto verdict = disk_.begin(life_, Call::kRename, from, to);
    int error = refusal(from);
    error = disk_.refuse(verdict, error != 0 ? error : refusal(to));
    if (error == 0) error = disk_.change_name(verdict, {Call::kRename, from, to, nullptr});
    return disk_.end(error, "rename {} {}", from, to);
  }
  int remove(const std::string& name) override {
    const auto verdict = disk_.begin(life_, Call::kRemove, name);
    int error = disk_.refuse(verdict, refusal(name));
    if (error == 0) error = disk_.change_name(verdict, {Call::kRemove, name, "", nullptr});
    return disk_.end(error, "remove {}", name);
  }
  int sync() override {
    const auto verdict = disk_.begin(life_, Call::kSync, "");
    int error = disk_.refuse(verdict, is_read_only_ ? EROFS : 0);
    if (error == 0) error = disk_.sync(verdict);
    return disk_.end(error, "sync");
  }
  int free_bytes(uint64_t& bytes) override {
    const auto verdict = disk_.begin(life_, Call::kFreeBytes, "");
    if (verdict.crashes) disk_.die();
    bytes = disk_.capacity_ - std::min(disk_.capacity_, disk_.used_bytes());
    return disk_.end(verdict.error, "free_bytes");
  }
  size_t block_bytes() const override { return disk_.block_bytes_; }

 private:
  using Call = SimulatedDisk::Call;
  int refusal(const std::string& name) const {
    if (is_read_only_) return EROFS;
    return is_file_name(name) ? 0 : EINVAL;
  }

  SimulatedDisk& disk_;
  const uint64_t life_;
  const bool is_read_only_;
};

// Content. Sectors of a Pending are relative to its offset, which is a multiple of them.

// Copies what `from` has of the bytes from `begin` on into `into`.
inline void SimulatedDisk::copy_sectors(const Pending& from, uint64_t begin, std::span<char> into) {
  for (size_t i = 0; i < from.sectors.size(); ++i) {
    const uint64_t at = from.offset + i * kSectorBytes;
    if (!from.sectors[i] || at < begin || at >= begin + into.size()) continue;
    const size_t size = std::min<size_t>(kSectorBytes, begin + into.size() - at);
    std::copy_n(from.bytes.data() + i * kSectorBytes, size, into.data() + (at - begin));
  }
}

inline void SimulatedDisk::write_durable(Inode& inode, uint64_t offset, std::string_view bytes) {
  if (inode.durable.size() < offset + bytes.size()) inode.durable.resize(offset + bytes.size());
  std::copy(bytes.begin(), bytes.end(), inode.durable.data() + offset);
}

// Takes the sectors from `begin` to `end` out of what is pending.
inline void SimulatedDisk::forget(Inode& inode, uint64_t begin, uint64_t end) {
  for (Pending& pending : inode.pending) {
    for (size_t i = 0; i < pending.sectors.size(); ++i) {
      const uint64_t at = pending.offset + i * kSectorBytes;
      if (at >= begin && at < end) pending.sectors[i] = false;
    }
  }
  std::erase_if(inode.pending, [](const Pending& p) {
    return std::ranges::find(p.sectors, true) == p.sectors.end();
  });
}

// Nothing at or after `size` is left: were the file longer again, zeros would be there.
inline void SimulatedDisk::cut(Inode& inode, uint64_t size) {
  if (inode.durable.size() > size) inode.durable.resize(size);
  forget(inode, (size + kSectorBytes - 1) / kSectorBytes * kSectorBytes, kForever);
  for (Pending& pending : inode.pending) {
    if (pending.offset + pending.bytes.size() > size) {
      std::fill(pending.bytes.begin() + static_cast<ptrdiff_t>(size - pending.offset),
                pending.bytes.end(), '\0');
    }
  }
}

// The size that is seen becomes durable.
inline void SimulatedDisk::commit_size(Inode& inode) {
  cut(inode, inode.size);
  inode.durable_size = inode.size;
}

// What a reader sees, with zeros where nothing is.
inline void SimulatedDisk::see(const Inode& inode, uint64_t offset, std::span<char> into) {
  std::ranges::fill(into, '\0');
  if (offset < inode.durable.size()) {
    std::copy_n(inode.durable.data() + offset,
                std::min<size_t>(into.size(), inode.durable.size() - offset), into.data());
  }
  for (const Pending& pending : inode.pending) copy_sectors(pending, offset, into);
}

// Any subset, often one of those that code is likely to take for something else.
inline SimulatedDisk::Sectors SimulatedDisk::some_of(size_t count) {
  Sectors sectors(count, false);
  if (count == 0) return sectors;
  const uint64_t kind = random_.below(6);
  const size_t at = random_.below(count + 1);
  for (size_t i = 0; i < count; ++i) {
    switch (kind) {
      case 0:  // the first ones, from none to all
        sectors[i] = i < at;
        break;
      case 1:  // the last ones
        sectors[i] = i >= at;
        break;
      case 2:  // all but one
        sectors[i] = i != at;
        break;
      case 3:  // one
        sectors[i] = i == at;
        break;
      default:
        sectors[i] = random_.coin();
    }
  }
  return sectors;
}

// Lives.

inline SimulatedDisk::Verdict SimulatedDisk::begin(uint64_t life, Call call, std::string_view name,
                                                   std::string_view to) {
  if (is_dead_ || life != life_) throw SimulatedCrash{};
  ++steps_;
  Verdict verdict;
  for (Point& point : crash_points_) {
    if (!matches(point, call, name, to)) continue;
    if (--point.first == 0) verdict.crashes = true;
  }
  for (Fault& fault : faults_) {
    if (!matches(fault.point, call, name, to)) continue;
    if (fault.point.first > 1) {
      --fault.point.first;
    } else if (fault.times > 0) {
      if (fault.times != kForever) --fault.times;
      if (verdict.error == 0) verdict = {verdict.crashes, fault.error, fault.left};
    }
  }
  if (verdict.error != 0) ++failed_;
  if (verdict.crashes && trace_ != nullptr) {
    trace_->push_back(fmt::format("{}: crash in call {} {} {}", steps_, int(call), name, to));
  }
  return verdict;
}

inline std::unique_ptr<Directory> SimulatedDisk::open() {
  LLMPROXY_CHECK(!is_dead_);
  if (is_owned_) return nullptr;
  is_owned_ = true;
  return std::make_unique<SimulatedDirectory>(*this, false);
}

inline std::unique_ptr<Directory> SimulatedDisk::open_to_read() {
  LLMPROXY_CHECK(!is_dead_);
  return std::make_unique<SimulatedDirectory>(*this, true);
}

inline void SimulatedDisk::begin_life() {
  ++life_;
  steps_ = 0;
  is_dead_ = false;
  is_owned_ = false;
  under_way_.reset();
  crash_points_.clear();
}

inline void SimulatedDisk::kill() {
  if (under_way_ && !under_way_->bytes.empty()) {
    Inode& inode = *under_way_->inode;
    const size_t count = under_way_->bytes.size() / kSectorBytes;
    const size_t written = random_.below(count + 1);
    Sectors sectors(count, false);
    std::fill_n(sectors.begin(), written, true);
    if (written > 0) {
      inode.size = std::max(inode.size, under_way_->offset + written * kSectorBytes);
      inode.pending.push_back({under_way_->offset, under_way_->bytes, sectors, false});
    }
  }
  if (trace_ != nullptr) trace_->push_back("killed");
  begin_life();
}

inline void SimulatedDisk::crash() {
  if (under_way_) {
    Inode& inode = *under_way_->inode;
    const auto& [unused, offset, bytes] = *under_way_;
    inode.size = std::max(inode.size, offset + bytes.size());
    inode.pending.push_back({offset, bytes, all_of(bytes.size()), false});
  }
  settle_names();
  for (auto& [name, inode] : names_) {
    inode->name = name;
    settle(*inode);
  }
  if (trace_ != nullptr) trace_->push_back("power cut");
  begin_life();
}

inline void SimulatedDisk::settle_names() {
  const uint64_t kept_of_four = random_.below(5);
  std::set<std::string> stuck;  // where a change was lost: no later one can have happened
  for (const Change& change : changes_) {
    const bool is_kept = random_.below(4) < kept_of_four && !stuck.contains(change.name) &&
                         (change.call != Call::kRename || !stuck.contains(change.to));
    if (is_kept) {
      apply(durable_names_, change);
    } else {
      stuck.insert(change.name);
      if (change.call == Call::kRename) stuck.insert(change.to);
    }
  }
  changes_.clear();
  names_ = durable_names_;
}

inline void SimulatedDisk::settle(Inode& inode) {
  if (inode.size != inode.durable_size && random_.coin()) inode.size = inode.durable_size;
  std::vector<Pending> pending = std::move(inode.pending);
  inode.pending.clear();
  while (!pending.empty()) {  // in any order
    const size_t i = random_.below(pending.size());
    Pending write = std::move(pending[i]);
    pending.erase(pending.begin() + static_cast<ptrdiff_t>(i));
    if (write.is_doomed) continue;
    const Sectors kept = some_of(write.sectors.size());
    for (size_t k = 0; k < kept.size(); ++k) {
      if (!kept[k] || !write.sectors[k]) continue;
      write_durable(inode, write.offset + k * kSectorBytes,
                    std::string_view(write.bytes).substr(k * kSectorBytes, kSectorBytes));
    }
  }
  commit_size(inode);
  inode.has_failed = false;
}

// Names.

// False: nothing of that name.
inline bool SimulatedDisk::apply(Names& names, const Change& change) {
  if (change.call == Call::kCreate) {
    names[change.name] = change.inode;
    return true;
  }
  const auto found = names.find(change.name);
  if (found == names.end()) return false;
  if (change.call == Call::kRename) {
    if (change.name == change.to) return true;
    names[change.to] = found->second;
  }
  names.erase(found);
  return true;
}

inline void SimulatedDisk::change(Change change) {
  apply(names_, change);
  if (change.call == Call::kRename) names_[change.to]->name = change.to;
  changes_.push_back(std::move(change));
}

inline uint64_t SimulatedDisk::used_bytes() const {
  uint64_t used = 0;
  for (const auto& [name, inode] : names_) used += inode->size;
  return used;
}

inline int SimulatedDisk::list(const Verdict& verdict, std::vector<std::string>& names) {
  if (verdict.crashes) die();
  names.clear();
  for (const auto& [name, inode] : names_) {
    if (verdict.error != 0 && random_.coin()) break;
    names.push_back(name);
  }
  for (size_t i = names.size(); i > 1; --i) std::swap(names[i - 1], names[random_.below(i)]);
  return verdict.error;
}

inline int SimulatedDisk::create(const Verdict& verdict, const std::string& name, uint64_t size,
                                 std::shared_ptr<Inode>& inode) {
  if (names_.contains(name)) {
    if (verdict.crashes) die();
    return verdict.error != 0 ? verdict.error : EEXIST;
  }
  auto made = std::make_shared<Inode>();
  made->name = name;
  const auto leave_part = [&] {
    made->size = random_.chance(4) ? size : random_.below(size / kSectorBytes + 1) * kSectorBytes;
    made->durable_size = random_.coin() ? made->size : 0;
    change({Call::kCreate, name, "", made});
  };
  if (verdict.crashes) {
    if (random_.coin()) leave_part();
    die();
  }
  int error = verdict.error;
  if (error == 0 && size > capacity_ - std::min(capacity_, used_bytes())) error = ENOSPC;
  if (error != 0) {  // it was there for a moment, and its removal may fail, too
    leave_part();
    const bool stays = verdict.left == Left::kAny && random_.chance(4);
    if (!stays) change({Call::kRemove, name, "", nullptr});
    return error;
  }
  made->size = made->durable_size = size;
  change({Call::kCreate, name, "", made});
  inode = std::move(made);
  return 0;
}

// kRename and kRemove.
inline int SimulatedDisk::change_name(const Verdict& verdict, Change wanted) {
  const bool is_there = names_.contains(wanted.name);
  const bool is_odd = verdict.crashes || (verdict.error != 0 && verdict.left != Left::kNothing);
  if (is_there && (is_odd ? random_.coin() : verdict.error == 0)) change(std::move(wanted));
  if (verdict.crashes) die();
  if (verdict.error != 0) return verdict.error;
  return is_there ? 0 : ENOENT;
}

inline int SimulatedDisk::sync(const Verdict& verdict) {
  const bool is_odd = verdict.crashes || (verdict.error != 0 && verdict.left != Left::kNothing);
  if (is_odd ? random_.coin() : verdict.error == 0) {
    if (!changes_.empty()) durable_names_ = names_;
    changes_.clear();
  }
  if (verdict.crashes) die();
  return verdict.error;
}

// Reading and writing.

// A disk that lied makes good what it said.
inline void SimulatedDisk::write_back() {
  for (auto& [name, inode] : names_) {
    for (const Pending& pending : inode->pending) {
      if (pending.is_doomed) continue;
      for (size_t i = 0; i < pending.sectors.size(); ++i) {
        if (!pending.sectors[i]) continue;
        write_durable(*inode, pending.offset + i * kSectorBytes,
                      std::string_view(pending.bytes).substr(i * kSectorBytes, kSectorBytes));
      }
    }
    std::erase_if(inode->pending, [](const Pending& pending) { return !pending.is_doomed; });
    inode->durable_size = inode->size;
  }
}

inline void SimulatedDisk::leave_part_of_write(Inode& inode, uint64_t offset,
                                               std::string_view bytes, Left left) {
  inode.has_failed = true;
  Pending pending{offset, std::string(bytes), all_of(bytes.size()), false};
  bool is_durable = left == Left::kPart;
  pending.is_doomed = left == Left::kUntilCrash;
  bool is_whole = false;
  if (left == Left::kAny) {
    const uint64_t kind = random_.below(4);
    if (kind == 0) return;
    is_durable = kind == 1;
    pending.is_doomed = kind == 2;  // 3: a power cut decides
    is_whole = random_.chance(4);
  } else if (left == Left::kNothing) {
    return;
  }
  if (!is_whole) pending.sectors = some_of(pending.sectors.size());
  const auto last = std::find(pending.sectors.rbegin(), pending.sectors.rend(), true);
  const auto count = static_cast<uint64_t>(pending.sectors.rend() - last);
  inode.size = std::max(inode.size, offset + count * kSectorBytes);
  if (!is_durable) {
    inode.pending.push_back(std::move(pending));
    return;
  }
  commit_size(inode);
  for (size_t i = 0; i < pending.sectors.size(); ++i) {
    if (!pending.sectors[i]) continue;
    const uint64_t at = offset + i * kSectorBytes;
    forget(inode, at, at + kSectorBytes);
    write_durable(inode, at, bytes.substr(i * kSectorBytes, kSectorBytes));
  }
}

inline int SimulatedDisk::write(const Verdict& verdict, const std::shared_ptr<Inode>& inode,
                                uint64_t offset, std::string_view bytes) {
  if (verdict.crashes) {
    under_way_ = UnderWay{inode, offset, std::string(bytes)};
    die();
  }
  const uint64_t end = offset + bytes.size();
  if (verdict.error != 0) {
    leave_part_of_write(*inode, offset, bytes, verdict.left);
    return verdict.error;
  }
  const uint64_t growth = end > inode->size ? end - inode->size : 0;
  if (growth > capacity_ - std::min(capacity_, used_bytes())) return ENOSPC;
  if (is_lying_ && random_.chance(8)) write_back();
  if (!is_lying_ || growth > 0) commit_size(*inode);
  forget(*inode, offset, end);
  inode->size = std::max(inode->size, end);
  if (!is_lying_) inode->durable_size = inode->size;
  if (is_lying_ || inode->has_failed) {
    inode->pending.push_back({offset, std::string(bytes), all_of(bytes.size()), false});
  } else {
    write_durable(*inode, offset, bytes);
  }
  return 0;
}

inline int SimulatedDisk::read(const Verdict& verdict, const Inode& inode, uint64_t offset,
                               std::span<char> into, size_t& n) {
  if (verdict.crashes) die();
  if (verdict.error != 0) {
    std::ranges::fill(into, '\xee');
    return verdict.error;
  }
  n = std::min<uint64_t>(into.size(), inode.size - std::min(inode.size, offset));
  see(inode, offset, into.first(n));
  return 0;
}

inline int SimulatedDisk::truncate(const Verdict& verdict, Inode& inode, uint64_t size) {
  const bool is_odd = verdict.crashes || (verdict.error != 0 && verdict.left != Left::kNothing);
  if (is_odd ? random_.coin() : verdict.error == 0) {
    if (size > inode.size) commit_size(inode);  // what was cut off does not come back
    inode.size = size;
    if (!is_odd || random_.coin()) commit_size(inode);
  }
  if (verdict.crashes) die();
  return verdict.error;
}

// Behind the program's back.

inline std::vector<std::string> SimulatedDisk::names() const {
  std::vector<std::string> all;
  for (const auto& [name, inode] : names_) all.push_back(name);
  return all;
}

inline std::optional<std::string> SimulatedDisk::content(const std::string& name) const {
  const auto found = names_.find(name);
  if (found == names_.end()) return std::nullopt;
  std::string bytes(found->second->size, '\0');
  see(*found->second, 0, bytes);
  return bytes;
}

inline void SimulatedDisk::put(const std::string& name, std::string bytes) {
  auto inode = std::make_shared<Inode>();
  inode->name = name;
  inode->size = inode->durable_size = bytes.size();
  inode->durable = std::move(bytes);
  names_[name] = durable_names_[name] = std::move(inode);
  std::erase_if(changes_, [&](const Change& c) { return c.name == name || c.to == name; });
}

inline void SimulatedDisk::spoil(const std::string& name, uint64_t offset, std::string_view bytes) {
  const auto found = names_.find(name);
  LLMPROXY_CHECK(found != names_.end());
  Inode& inode = *found->second;
  LLMPROXY_CHECK(offset + bytes.size() <= inode.size);
  const uint64_t begin = offset / kSectorBytes * kSectorBytes;
  const uint64_t end = (offset + bytes.size() + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  std::string sectors(std::min(end, inode.size) - begin, '\0');
  see(inode, begin, sectors);
  std::copy(bytes.begin(), bytes.end(), sectors.begin() + static_cast<ptrdiff_t>(offset - begin));
  forget(inode, begin, end);
  write_durable(inode, begin, sectors);
}

}  // namespace llmproxy
