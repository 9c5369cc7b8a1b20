// Tests of base/file.h on file systems of this machine: that of TMPDIR, and /dev/shm. Some make
// file systems of their own in a child process; where mounting is forbidden they are skipped, with
// words. What it shares with the simulated disk is in billing/simulated_disk_test.cc.
#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

namespace llmproxy {
namespace {

// A directory that goes with the object.
class TemporaryPath {
 public:
  explicit TemporaryPath(std::string parent = std::filesystem::temp_directory_path().native())
      : path_(std::move(parent) + "/llmproxy-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~TemporaryPath() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryPath(const TemporaryPath&) = delete;
  TemporaryPath& operator=(const TemporaryPath&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::unique_ptr<Directory> must_open(const std::string& path) {
  std::string problem;
  auto directory = open_directory(path, problem);
  EXPECT_NE(directory, nullptr) << problem;
  return directory;
}

std::string pattern(size_t size, unsigned seed = 1) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>((seed = seed * 1103515245 + 12345) >> 16);
  return bytes;
}

// Memory whose address leaves `rest` when divided by 4096.
class Memory {
 public:
  Memory(size_t size, size_t rest)
      : all_(size + 8192), begin_((8192 + rest - address() % 4096) % 4096), size_(size) {}
  std::span<char> span() { return {all_.data() + begin_, size_}; }
  std::string_view view() { return {all_.data() + begin_, size_}; }

 private:
  size_t address() const { return reinterpret_cast<size_t>(all_.data()); }
  std::vector<char> all_;
  size_t begin_, size_;
};

// The flags (F_GETFL) of this process's descriptor of a file; -1: it has none.
int flags_of(const std::string& path) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    if (std::filesystem::read_symlink(entry.path(), ignored) == path) {
      return fcntl(std::stoi(entry.path().filename()), F_GETFL);
    }
  }
  return -1;
}

constexpr int kForbidden = 77;

// Exit code of a child process that runs `steps`; 1 when an expectation failed in it.
int run_child(const std::function<int()>& steps) {
  const pid_t child = fork();
  if (child == 0) {
    const int code = steps();
    fflush(nullptr);
    _exit(testing::Test::HasFailure() ? 1 : code);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool write_text(const char* path, const std::string& text) {
  return static_cast<bool>(std::ofstream(path) << text << std::flush);
}

// Mounts in name spaces of this process's own, as root of them if need be.
bool own_mounts() {
  const std::string user = "0 " + std::to_string(getuid()) + " 1";
  const std::string group = "0 " + std::to_string(getgid()) + " 1";
  if (unshare(CLONE_NEWNS) == -1) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == -1) return false;
    if (!write_text("/proc/self/setgroups", "deny")) return false;
    if (!write_text("/proc/self/uid_map", user)) return false;
    if (!write_text("/proc/self/gid_map", group)) return false;
  }
  return mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

// Runs `steps` in a child that sees a file system of its own at `place`.
int run_mounted(const std::string& place, const char* kind, const char* options,
                const std::function<void()>& steps) {
  return run_child([&] {
    if (!own_mounts() || mount("none", place.c_str(), kind, 0, options) == -1) return kForbidden;
    steps();
    return 0;
  });
}

// From now on this process's system call `number` fails with EIO.
bool forbid(long number) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EIO),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = std::size(filter), .filter = filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

class FileTest : public testing::TestWithParam<const char*> {
 protected:
  TemporaryPath place_{GetParam() == std::string("TMPDIR")
                           ? std::filesystem::temp_directory_path().native()
                           : GetParam()};
  std::unique_ptr<Directory> directory_ = must_open(place_.path());
  const size_t block_ = directory_->block_bytes();
};

TEST_P(FileTest, WritesFromAndReadsIntoAnyMemory) {
  constexpr size_t kSize = 5 << 19;  // more than two of the pieces it copies
  for (const size_t rest : {0U, 512U, 1U, 4095U}) {
    SCOPED_TRACE(rest);
    std::unique_ptr<File> file;
    ASSERT_EQ(directory_->create("a", 2 * kSize, file), 0);
    Memory from(kSize, rest), into(2 * kSize, rest);
    std::ranges::copy(pattern(kSize), from.span().begin());
    ASSERT_EQ(file->write(block_, from.view()), 0);
    size_t n = 0;
    ASSERT_EQ(file->read(0, into.span(), n), 0);
    EXPECT_EQ(n, 2 * kSize);
    EXPECT_EQ(into.view().substr(block_, kSize), from.view());
    EXPECT_EQ(into.view().substr(0, block_), std::string(block_, '\0'));
    EXPECT_EQ(into.view().substr(block_ + kSize), std::string(kSize - block_, '\0'));
    ASSERT_EQ(directory_->remove("a"), 0);
  }
}

TEST_P(FileTest, ReadsToTheEndOfTheFileOnly) {
  std::unique_ptr<File> file;
  ASSERT_EQ(directory_->create("a", 4 * block_, file), 0);
  const std::string bytes = pattern(4 * block_);
  ASSERT_EQ(file->write(0, bytes), 0);
  for (const size_t size : {4 * block_, 3 * block_ + 100, 2 * block_, block_ + 1, size_t{1}}) {
    ASSERT_EQ(file->truncate(size), 0);
    for (const size_t rest : {0U, 1U}) {
      SCOPED_TRACE(testing::Message() << size << " rest " << rest);
      Memory into(8 * block_, rest);
      size_t n = 9;
      EXPECT_EQ(file->read(0, into.span(), n), 0);
      ASSERT_EQ(n, size);
      EXPECT_EQ(into.view().substr(0, n), bytes.substr(0, n));
      EXPECT_EQ(file->read(block_, into.span(), n), 0);
      EXPECT_EQ(n, size > block_ ? size - block_ : 0);
      EXPECT_EQ(file->read(64 * block_, into.span(), n), 0);
      EXPECT_EQ(n, 0U);
    }
  }
}

TEST_P(FileTest, ANewFileIsWrittenOutWithZeros) {
  std::unique_ptr<File> file;
  const size_t size = (size_t{3} << 20) + block_;
  ASSERT_EQ(directory_->create("a", size, file), 0);
  struct stat status {};
  ASSERT_EQ(stat((place_ / "a").c_str(), &status), 0);
  EXPECT_EQ(static_cast<size_t>(status.st_size), size);
  EXPECT_GE(static_cast<size_t>(status.st_blocks) * 512, size) << "promised, not written";
  EXPECT_EQ(status.st_mode & 0777, 0600U);
  std::string bytes;
  ASSERT_EQ(read_file(*directory_, "a", size, bytes), 0);
  EXPECT_EQ(bytes, std::string(size, '\0'));
}

TEST_P(FileTest, IsReplacedWhole) {
  std::string bytes;
  for (const size_t size : {size_t{3}, 3 * block_ + 1, size_t{0}}) {
    ASSERT_EQ(replace_file(*directory_, "a", pattern(size)), 0);
    ASSERT_EQ(read_file(*directory_, "a", 4 * block_, bytes), 0);
    EXPECT_EQ(bytes.substr(0, size), pattern(size));
    EXPECT_EQ(bytes.substr(size), std::string((4 * block_ - size) % block_, '\0'));
  }
}

TEST_P(FileTest, ReadsWhileItIsWritten) {
  std::unique_ptr<File> file;
  const size_t size = 64 * block_;
  ASSERT_EQ(directory_->create("a", size, file), 0);
  const std::string bytes = pattern(size);
  ASSERT_EQ(file->write(0, bytes), 0);
  std::thread writer([&] {
    for (int i = 0; i < 50; ++i) EXPECT_EQ(file->write(0, bytes), 0);
  });
  Memory into(size, 1);
  for (int i = 0; i < 50; ++i) {
    size_t n = 0;
    ASSERT_EQ(file->read(0, into.span(), n), 0);
    ASSERT_EQ(into.view(), bytes);
  }
  writer.join();
}

INSTANTIATE_TEST_SUITE_P(Places, FileTest, testing::Values("TMPDIR", "/dev/shm"),
                         [](const auto& place) {
                           return place.index == 0 ? "TemporaryDirectory" : "Tmpfs";
                         });

TEST(File, GoesToTheDeviceAndIsSynchronous) {
  const TemporaryPath place;
  const auto directory = must_open(place.path());
  const int probe = open((place / "probe").c_str(), O_CREAT | O_RDWR | O_DIRECT, 0600);
  if (probe == -1) GTEST_SKIP() << "the file system of TMPDIR takes no O_DIRECT";
  close(probe);
  std::unique_ptr<File> file;
  ASSERT_EQ(directory->create("a", 65536, file), 0);
  EXPECT_EQ(flags_of(place / "a") & (O_DIRECT | O_DSYNC), O_DIRECT | O_DSYNC);
  file.reset();
  EXPECT_EQ(flags_of(place / "a"), -1);
  ASSERT_EQ(directory->open("a", file), 0);
  EXPECT_EQ(flags_of(place / "a") & (O_DIRECT | O_DSYNC), O_DIRECT | O_DSYNC);
}

TEST(File, WorksWhereTheFileSystemRefusesToGoToTheDevice) {
  const TemporaryPath place;
  const int code = run_mounted(place.path(), "ramfs", "", [&] {
    const auto directory = must_open(place.path());
    std::unique_ptr<File> file;
    ASSERT_EQ(directory->create("a", 65536, file), 0);
    EXPECT_EQ(flags_of(place / "a") & O_DIRECT, 0);
    const std::string bytes = pattern(8192);
    EXPECT_EQ(file->write(4096, bytes), 0);
    ASSERT_EQ(directory->open("a", file), 0);
    EXPECT_EQ(file->truncate(4096 + 5000), 0);
    Memory into(65536, 1);
    size_t n = 0;
    EXPECT_EQ(file->read(4096, into.span(), n), 0);
    EXPECT_EQ(into.view().substr(0, n), bytes.substr(0, 5000));
  });
  if (code == kForbidden) GTEST_SKIP() << "this user may not mount";
  EXPECT_EQ(code, 0);
}

TEST(File, AFullDiskRefusesANewFileAndKeepsNothingOfIt) {
  const TemporaryPath place;
  const int code = run_mounted(place.path(), "tmpfs", "size=1m", [&] {
    const auto directory = must_open(place.path());
    uint64_t before = 0, after = 0;
    ASSERT_EQ(directory->free_bytes(before), 0);
    EXPECT_LE(before, uint64_t{1} << 20);
    std::unique_ptr<File> file;
    EXPECT_EQ(directory->create("a", 2 << 20, file), ENOSPC);
    EXPECT_EQ(file, nullptr);
    EXPECT_EQ(directory->open("a", file), ENOENT);
    EXPECT_EQ(directory->free_bytes(after), 0);
    EXPECT_EQ(before, after);
    EXPECT_EQ(directory->create("a", 1 << 19, file), 0);
    EXPECT_EQ(directory->free_bytes(after), 0);
    EXPECT_EQ(before, after + (1 << 19));
    EXPECT_EQ(file->write(1 << 19, pattern(1 << 20)), ENOSPC);
    EXPECT_EQ(replace_file(*directory, "b", pattern(1 << 20)), ENOSPC);
    EXPECT_EQ(directory->open("b.new", file), ENOENT);
  });
  if (code == kForbidden) GTEST_SKIP() << "this user may not mount";
  EXPECT_EQ(code, 0);
}

TEST(File, AFileSystemThatIsReadOnlySaysSo) {
  const TemporaryPath place;
  const int code = run_mounted(place.path(), "tmpfs", "size=1m", [&] {
    const auto directory = must_open(place / "d");
    std::unique_ptr<File> file;
    ASSERT_EQ(directory->create("a", 4096, file), 0);
    file.reset();
    // Nothing may be open for writing: a new mount of the same, read-only.
    ASSERT_EQ(mount((place / "d").c_str(), (place / "d").c_str(), nullptr, MS_BIND, nullptr), 0);
    ASSERT_EQ(mount(nullptr, (place / "d").c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, ""),
              0);
    std::string problem, bytes;
    EXPECT_EQ(open_directory(place / "d", problem), nullptr);
    EXPECT_EQ(problem, "cannot open the file \"lock\" in it: Read-only file system");
    const auto reader = open_directory_to_read(place / "d", problem);
    ASSERT_NE(reader, nullptr) << problem;
    EXPECT_EQ(read_file(*reader, "a", 4096, bytes), 0);
    EXPECT_EQ(bytes.size(), 4096U);
  });
  if (code == kForbidden) GTEST_SKIP() << "this user may not mount";
  EXPECT_EQ(code, 0);
}

TEST(File, TheLimitOfAProcessIsAnError) {
  const TemporaryPath place;
  const int code = run_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const auto directory = must_open(place.path());
    std::unique_ptr<File> file;
    EXPECT_EQ(directory->create("a", 65536, file), 0);
    const rlimit limit{.rlim_cur = 131072, .rlim_max = 131072};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_EQ(file->write(65536, pattern(131072)), EFBIG);  // half of it fits: a short write first
    std::unique_ptr<File> other;
    EXPECT_EQ(directory->create("b", 131072 + 65536, other), EFBIG);
    EXPECT_EQ(directory->open("b", other), ENOENT);
    Memory into(131072, 0);
    size_t n = 0;
    EXPECT_EQ(file->read(0, into.span(), n), 0);
    EXPECT_EQ(n, 131072U);
    EXPECT_EQ(into.view().substr(65536), pattern(131072).substr(0, 65536));
    return 0;
  });
  EXPECT_EQ(code, 0);
}

// That each promise of durability rests on a system call, whose error is told.
TEST(File, FailsWhereDataCannotBeSynced) {
  const TemporaryPath place, pages;
  const auto steps = [](const std::string& path) {
    const auto directory = must_open(path);
    std::unique_ptr<File> file, other;
    EXPECT_EQ(directory->create("a", 65536, file), 0);
    if (!forbid(SYS_fdatasync)) return kForbidden;
    const bool is_synchronous = (flags_of(path + "/a") & O_DIRECT) != 0;
    EXPECT_EQ(file->write(0, pattern(4096)), is_synchronous ? 0 : EIO);
    EXPECT_EQ(file->truncate(4096), EIO);
    EXPECT_EQ(directory->create("b", 65536, other), EIO);
    EXPECT_EQ(directory->open("b", other), ENOENT);
    EXPECT_EQ(directory->sync(), 0);
    return 0;
  };
  const int code = run_child([&] { return steps(place.path()); });
  if (code == kForbidden) GTEST_SKIP() << "this user may not filter system calls";
  EXPECT_EQ(code, 0);
  const int on_pages = run_mounted(pages.path(), "ramfs", "", [&] { steps(pages.path()); });
  if (on_pages == kForbidden) GTEST_SKIP() << "this user may not mount";
  EXPECT_EQ(on_pages, 0);
}

TEST(Directory, FailsWhereNamesCannotBeSynced) {
  const TemporaryPath place;
  const int code = run_child([&] {
    const auto directory = must_open(place.path());
    if (!forbid(SYS_fsync)) return kForbidden;
    EXPECT_EQ(directory->sync(), EIO);
    EXPECT_EQ(replace_file(*directory, "a", "x"), EIO);
    std::string problem;
    EXPECT_EQ(open_directory(place / "new", problem), nullptr);
    EXPECT_EQ(problem, "cannot make it: Input/output error");
    return 0;
  });
  if (code == kForbidden) GTEST_SKIP() << "this user may not filter system calls";
  EXPECT_EQ(code, 0);
}

TEST(File, FailedSystemCallsAreTold) {
  const TemporaryPath place;
  using Step = std::function<int(Directory&, File&)>;
  std::unique_ptr<File> other;
  std::vector<std::string> names;
  std::string bytes(4096, 'x');
  uint64_t number = 0;
  size_t n = 0;
  const std::pair<long, Step> cases[] = {
      {SYS_pwrite64, [&](Directory&, File& f) { return f.write(0, bytes); }},
      {SYS_pread64, [&](Directory&, File& f) { return f.read(0, bytes, n); }},
      {SYS_ftruncate, [&](Directory&, File& f) { return f.truncate(0); }},
      {SYS_getdents64, [&](Directory& d, File&) { return d.list(names); }},
      {SYS_openat, [&](Directory& d, File&) { return d.open("a", other); }},
      {SYS_openat, [&](Directory& d, File&) { return d.create("b", 4096, other); }},
      {SYS_pwrite64, [&](Directory& d, File&) { return d.create("b", 4096, other); }},
      {SYS_renameat, [&](Directory& d, File&) { return d.rename("a", "b"); }},
      {SYS_unlinkat, [&](Directory& d, File&) { return d.remove("a"); }},
      {SYS_fstatfs, [&](Directory& d, File&) { return d.free_bytes(number); }},
  };
  for (const auto& [call, step] : cases) {
    const int code = run_child([&, call = call, &step = step] {
      const auto directory = must_open(place.path());
      std::unique_ptr<File> file;
      EXPECT_EQ(directory->create("a", 4096, file), 0);
      if (!forbid(call)) return kForbidden;
      EXPECT_EQ(step(*directory, *file), EIO) << call;
      return 0;
    });
    if (code == kForbidden) GTEST_SKIP() << "this user may not filter system calls";
    ASSERT_EQ(code, 0) << call;
    std::filesystem::remove(place / "a");
    EXPECT_FALSE(std::filesystem::exists(place / "b"));
  }
}

TEST(Directory, IsMadeWithItsParentsForTheOwnerAlone) {
  const TemporaryPath place;
  must_open(place / "a/b//c/");
  for (const char* name : {"a", "a/b", "a/b/c"}) {
    struct stat status {};
    ASSERT_EQ(stat((place / name).c_str(), &status), 0) << name;
    EXPECT_EQ(status.st_mode & 0777, 0700U) << name;
  }
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(place.path());
  EXPECT_NE(must_open("relative/path"), nullptr);
  EXPECT_NE(must_open("alone"), nullptr);
  EXPECT_TRUE(std::filesystem::exists(place / "relative/path/lock"));
  std::filesystem::current_path(before);
}

TEST(Directory, SaysWhyItCannotBeOpened) {
  const TemporaryPath place;
  ASSERT_TRUE(write_text((place / "file").c_str(), "x"));
  const std::pair<std::string, const char*> cases[] = {
      {place / "file", "cannot open it: Not a directory"},
      {place / "file/below", "cannot open it: Not a directory"},
      {"/proc/none/at/all", "cannot make it: No such file or directory"},
      {"", "cannot make it: No such file or directory"},
  };
  for (const auto& [path, expected] : cases) {
    std::string problem;
    EXPECT_EQ(open_directory(path, problem), nullptr) << path;
    EXPECT_EQ(problem, expected) << path;
  }
  std::string problem;
  EXPECT_EQ(open_directory_to_read(place / "none", problem), nullptr);
  EXPECT_EQ(problem, "cannot open it: No such file or directory");
  EXPECT_FALSE(std::filesystem::exists(place / "none"));
  ASSERT_EQ(symlink("elsewhere", (place / "lock").c_str()), 0);
  EXPECT_EQ(open_directory(place.path(), problem), nullptr);
  EXPECT_EQ(problem, "cannot open the file \"lock\" in it: Too many levels of symbolic links");
}

TEST(Directory, HasOneOwner) {
  const TemporaryPath place;
  std::string problem;
  auto owner = must_open(place.path());
  EXPECT_EQ(open_directory(place.path(), problem), nullptr);
  EXPECT_EQ(problem, "another process has it");
  const auto try_it = [&] { return open_directory(place.path(), problem) == nullptr ? 3 : 4; };
  owner.reset();
  // In the child nothing is inherited: it opens, and is refused, by itself.
  EXPECT_EQ(run_child(try_it), 4);
  int from_child[2];
  ASSERT_EQ(pipe(from_child), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto kept = open_directory(place.path(), problem);
    (void)!write(from_child[1], kept ? "y" : "n", 1);
    pause();
    _exit(0);
  }
  char answer = 0;
  EXPECT_EQ(read(from_child[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  EXPECT_EQ(try_it(), 3);
  EXPECT_EQ(problem, "another process has it");
  EXPECT_EQ(kill(child, SIGKILL), 0);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_EQ(try_it(), 4);
  close(from_child[0]);
  close(from_child[1]);
}

TEST(Directory, OneToReadStandsBesideTheOwnerAndChangesNothing) {
  const TemporaryPath place;
  const auto owner = must_open(place.path());
  std::unique_ptr<File> mine, theirs, other;
  ASSERT_EQ(owner->create("a", 65536, mine), 0);
  std::string problem;
  const auto reader = open_directory_to_read(place.path(), problem);
  ASSERT_NE(reader, nullptr) << problem;
  EXPECT_EQ(reader->block_bytes(), owner->block_bytes());
  ASSERT_EQ(reader->open("a", theirs), 0);
  ASSERT_EQ(mine->write(0, pattern(65536)), 0);
  Memory into(65536, 1);
  size_t n = 0;
  EXPECT_EQ(theirs->read(0, into.span(), n), 0);
  EXPECT_EQ(into.view(), pattern(65536));
  EXPECT_EQ(theirs->write(0, into.view()), EROFS);
  EXPECT_EQ(theirs->truncate(0), EROFS);
  EXPECT_EQ(reader->create("b", 65536, other), EROFS);
  EXPECT_EQ(reader->rename("a", "b"), EROFS);
  EXPECT_EQ(reader->remove("a"), EROFS);
  EXPECT_EQ(reader->sync(), EROFS);
  EXPECT_EQ(replace_file(*reader, "a", "x"), EROFS);
  std::vector<std::string> names;
  EXPECT_EQ(reader->list(names), 0);
  EXPECT_EQ(names, std::vector<std::string>{"a"});
}

TEST(Directory, ListsAndOpensRegularFilesOnly) {
  const TemporaryPath place;
  const auto directory = must_open(place.path());
  ASSERT_EQ(mkdir((place / "d").c_str(), 0700), 0);
  ASSERT_EQ(mkfifo((place / "fifo").c_str(), 0600), 0);
  ASSERT_EQ(symlink("a", (place / "link").c_str()), 0);
  std::unique_ptr<File> file;
  ASSERT_EQ(directory->create("a", 0, file), 0);
  std::vector<std::string> names{"before"};
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(directory->list(names), 0);
    EXPECT_EQ(names, std::vector<std::string>{"a"});
  }
  EXPECT_EQ(directory->open("d", file), EISDIR);
  EXPECT_EQ(directory->open("fifo", file), EINVAL);
  EXPECT_EQ(directory->open("link", file), ELOOP);
  std::string problem;
  const auto reader = open_directory_to_read(place.path(), problem);
  EXPECT_EQ(reader->open("fifo", file), EINVAL);  // and does not wait for its writer
}

TEST(Directory, KnowsThePhysicalBlock) {
  const TemporaryPath place;
  const size_t block = must_open(place.path())->block_bytes();
  EXPECT_TRUE(block >= 512 && block <= 65536 && (block & (block - 1)) == 0) << block;
  struct stat status {};
  ASSERT_EQ(stat(place.path().c_str(), &status), 0);
  const std::string device = "/sys/dev/block/" + std::to_string(major(status.st_dev)) + ":" +
                             std::to_string(minor(status.st_dev)) + "/queue/";
  size_t expected = 0;
  if (std::ifstream(device + "physical_block_size") >> expected) {
    EXPECT_GE(block, expected);
  } else {
    EXPECT_EQ(block, 4096U) << "the kernel does not tell";
  }
  EXPECT_EQ(must_open(TemporaryPath("/dev/shm").path())->block_bytes(), 4096U);
}

}  // namespace
}  // namespace llmproxy
