// Files as the ledger needs them: writes that are durable when they return, and names that are
// durable after sync(). Two implementations: a directory of this machine (file.cc), and the
// simulated disk of the tests (billing/simulated_disk.h), which drops, tears and reorders what was
// not made durable, and fails where it is told to.
//
// Every call blocks. A returned int is an errno value, 0 for success; nothing is tried twice but
// what a signal interrupted. What is not a multiple of block_bytes() where it has to be is EINVAL,
// on every file system. One File may be read and written by different threads at once; a Directory
// is used by one thread at a time unless a function says otherwise. A File may outlive its
// Directory, but then without its lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmproxy {

class File {
 public:
  virtual ~File() = default;

  // Writes all of `bytes`; when it returns 0 they are durable (O_DIRECT and O_DSYNC where the file
  // system takes O_DIRECT, else fdatasync). `offset` and the size are multiples of
  // Directory::block_bytes(); memory need not be aligned, but is copied when it is not. Up to
  // 1 MiB goes out as one write(2). After an error any part may be on the disk, now or later, and
  // later writes to this file prove nothing: the kernel marks the pages of a failed fdatasync(2)
  // clean.
  virtual int write(uint64_t offset, std::string_view bytes) = 0;

  // Reads into `into`; `n` tells how much: less than asked only at the end of the file. `offset`
  // and the size of `into` are multiples of Directory::block_bytes(). What it shows after a crash
  // of the process may still be in caches alone: write it elsewhere before relying on it.
  virtual int read(uint64_t offset, std::span<char> into, size_t& n) = 0;

  // Sets the size, in any number of bytes; durable when it returns 0.
  virtual int truncate(uint64_t size) = 0;

  virtual int size(uint64_t& bytes) = 0;
};

class Directory {
 public:
  virtual ~Directory() = default;

  // Names of the regular files, in no order, without the lock's.
  virtual int list(std::vector<std::string>& names) = 0;

  // A regular file that is there; ENOENT. Never through a symbolic link.
  virtual int open(const std::string& name, std::unique_ptr<File>& file) = 0;

  // A new file of `size` zero bytes that are written out and durable, not merely promised; its
  // name is durable after sync(). EEXIST where the name is taken. After any other error the file is
  // removed again if the disk lets it; a crash leaves it with any part of its size. `size` is a
  // multiple of block_bytes(). Any thread.
  virtual int create(const std::string& name, uint64_t size, std::unique_ptr<File>& file) = 0;

  // rename(2), which replaces a file named `to`, and unlink(2): durable after sync(). After an
  // error other than ENOENT they may have happened.
  virtual int rename(const std::string& from, const std::string& to) = 0;
  virtual int remove(const std::string& name) = 0;

  virtual int sync() = 0;  // of the names. Any thread.

  virtual int free_bytes(uint64_t& bytes) = 0;  // room on the file system for this user

  // The physical block of the device below, a power of two from 512 to 65536: what shares a block
  // with a torn write can be lost with it. 4096 where the kernel does not tell. Constant.
  virtual size_t block_bytes() const = 0;
};

// A name is what may stand in a directory, without "/"; "lock" is the directory's own. Another one
// is EINVAL.
bool is_file_name(std::string_view name);

// Opens the directory `path`, makes it (0700, and its parents) when it is not there, and takes its
// lock, a flock(2) on the file "lock" in it, which is held as long as the object or the process
// lives. `problem` says in words why it could not be had; kDirectoryIsTaken for the lock.
constexpr std::string_view kDirectoryIsTaken = "another process has it";
std::unique_ptr<Directory> open_directory(const std::string& path, std::string& problem);

// The same without the lock, to read beside a running owner: nothing is made, and calls that change
// something (sync() too) return EROFS.
std::unique_ptr<Directory> open_directory_to_read(const std::string& path, std::string& problem);

// Puts `bytes` in the place of the file `name`, whole or not at all: new file NAME.new, rename,
// sync. The file is padded with zeros to blocks; its reader knows by itself where the content ends.
// A crash can leave NAME.new, which the next call removes.
int replace_file(Directory& directory, const std::string& name, std::string_view bytes);

// The whole of a file, at most `limit` bytes (EFBIG beyond).
int read_file(Directory& directory, const std::string& name, size_t limit, std::string& bytes);

}  // namespace llmproxy
