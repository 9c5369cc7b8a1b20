// Bytes of the ledger's files that are no records of it: kept beside them in files quarantine-...,
// for a person to look at. Nothing reads them again; who has seen them may delete them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/file.h"

namespace llmproxy {

class Quarantine {
 public:
  static constexpr std::string_view kPrefix = "quarantine-";
  // Beyond either nothing is added: damage is then only told, so that a disk that goes on spoiling
  // what it holds does not fill up with copies of it.
  static constexpr size_t kFilesMax = 1'000;
  static constexpr uint64_t kBytesMax = uint64_t{256} << 20;

  explicit Quarantine(Directory& directory) : directory_(directory) {}

  // The name for `size` bytes at `offset` of a segment.
  static std::string name_of(uint64_t segment, uint64_t offset);

  // The same name again replaces what was kept under it. Both return an errno; EDQUOT: beyond the
  // bounds.
  int keep_bytes(const std::string& name, std::string_view bytes);
  // Renames the file to quarantine-NAME, `size` bytes of which hold something: it is cut there.
  int keep_file(const std::string& name, uint64_t size);

 private:
  int look();
  int make_room_for(const std::string& name, uint64_t bytes);

  Directory& directory_;
  bool has_looked_ = false;
  std::map<std::string, uint64_t> files_;  // and their sizes
  uint64_t bytes_ = 0;
};

// What stands at `offset` of a file, whose blocks may be smaller than those of the device that it
// lies on now: at most `size` bytes. An errno.
int read_bytes(File& file, uint64_t offset, uint64_t size, std::string& bytes);

}  // namespace llmproxy
