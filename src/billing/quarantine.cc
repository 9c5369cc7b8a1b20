// It looks at what is there once, when it is first needed: at most starts it never is.
#include "billing/quarantine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

namespace llmproxy {
namespace {

constexpr uint64_t kAlignment = 65'536;  // every block size divides it

}  // namespace

std::string Quarantine::name_of(uint64_t segment, uint64_t offset) {
  return fmt::format("{}{:016x}-{}", kPrefix, segment, offset);
}

int Quarantine::look() {
  if (has_looked_) return 0;
  std::vector<std::string> names;
  if (const int error = directory_.list(names); error != 0) return error;
  for (const std::string& name : names) {
    if (!name.starts_with(kPrefix)) continue;
    std::unique_ptr<File> file;
    uint64_t size = 0;
    if (directory_.open(name, file) == 0) file->size(size);  // else it counts as a file
    files_[name] = size;
    bytes_ += size;
  }
  has_looked_ = true;
  return 0;
}

int Quarantine::make_room_for(const std::string& name, uint64_t bytes) {
  if (const int error = look(); error != 0) return error;
  const auto known = files_.find(name);
  const uint64_t before = known == files_.end() ? 0 : known->second;
  if (known == files_.end() && files_.size() >= kFilesMax) return EDQUOT;
  return bytes_ - before + bytes > kBytesMax ? EDQUOT : 0;
}

int Quarantine::keep_bytes(const std::string& name, std::string_view bytes) {
  if (const int error = make_room_for(name, bytes.size()); error != 0) return error;
  if (const int error = replace_file(directory_, name, bytes); error != 0) return error;
  bytes_ += bytes.size() - files_[name];
  files_[name] = bytes.size();
  return 0;
}

int Quarantine::keep_file(const std::string& name, uint64_t size) {
  const std::string to = std::string(kPrefix) + name;
  if (const int error = make_room_for(to, size); error != 0) return error;
  std::unique_ptr<File> file;
  uint64_t whole = 0;
  if (directory_.open(name, file) == 0 && file->size(whole) == 0 && whole > size)
    file->truncate(size);
  if (const int error = directory_.rename(name, to); error != 0) return error;
  bytes_ += size - files_[to];
  files_[to] = size;
  return directory_.sync();
}

int read_bytes(File& file, uint64_t offset, uint64_t size, std::string& bytes) {
  const uint64_t begin = offset / kAlignment * kAlignment;
  const uint64_t end = (offset + size + kAlignment - 1) / kAlignment * kAlignment;
  bytes.assign(static_cast<size_t>(end - begin), '\0');
  size_t n = 0;
  if (const int error = file.read(begin, bytes, n); error != 0) return error;
  bytes.resize(n);
  bytes.erase(0, static_cast<size_t>(offset - begin));
  bytes.resize(std::min<size_t>(bytes.size(), static_cast<size_t>(size)));
  return 0;
}

}  // namespace llmproxy
