// A library to be loaded before the proxy (LD_PRELOAD): it counts the file calls below one directory and
// does harm at the N-th. faults.py builds it and sets its environment.
//
// Why not strace's injection: strace stops the process at every call, counts per thread, and cannot write a part.
// This library counts over all threads with one atomic number; a start and twenty requests take as long with it.
//
// What goes through it is what the program and SQLite call by name in libc (strace shows the same calls, but for
// those of libc's own streams). Calls go on by syscall(2), so that nothing is looked up at run time.
//
//   FAULTS_PREFIX   absolute path: files at it or below it count
//   FAULTS_REPORT   file that this makes and shares: struct Report
//   FAULTS_KINDS    letters of what counts: w write, s sync, t truncate, n names, o open, r read, l lock
//   FAULTS_AT       the number of the call that it begins at, from 1; 0: it only counts
//   FAULTS_UNTIL    the number of the last call that fails; default: FAULTS_AT
//   FAULTS_DO       kill-before and kill-torn (a part is written): the call hangs, so that who does not wait for it
//                   goes on, and then all dies; kill-after: at once; kill-late: the process goes on for a while;
//                   fail, short (a part is written, and said so), torn (a part is written, and it fails), hang;
//                   nosync: nothing is ever made durable
//   FAULTS_ERRNO    of fail and torn
//   FAULTS_PART     how much of a torn write goes out, in 256ths
//   FAULTS_US       microseconds: how long the call hangs, how late kill-late is
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define KINDS "wstnorl"
#define KIND_COUNT 7
#define CALLS_MAX 65536
#define SECTOR 512

// Shared with the rig, which reads it while we run and after we were killed.
struct Report {
  atomic_ulong calls;            // that counted
  atomic_ulong hits;             // that came to harm
  atomic_ulong kinds[KIND_COUNT];  // all of them, counted or not, in the order of KINDS
  char order[CALLS_MAX];         // the kind of each that counted
};

enum Harm { NONE, KILL_BEFORE, KILL_AFTER, KILL_TORN, KILL_LATE, FAIL, SHORT, TORN, HANG, NOSYNC };
static const char* const kHarms[] = {"",     "kill-before", "kill-after", "kill-torn", "kill-late",
                                     "fail", "short",       "torn",       "hang",      "nosync"};

static char prefix[4096];
static size_t prefix_size;
static unsigned long at, until, part = 128, pause_us;
static int harm_errno = EIO;
static enum Harm harm;
static int counted[KIND_COUNT];
static struct Report* report;

static unsigned long number_of(const char* name, unsigned long otherwise) {
  const char* text = getenv(name);
  return text != NULL && *text != 0 ? strtoul(text, NULL, 10) : otherwise;
}

__attribute__((constructor)) static void begin(void) {
  const char* path = getenv("FAULTS_PREFIX");
  const char* shared = getenv("FAULTS_REPORT");
  if (path == NULL || shared == NULL) return;
  const int fd = (int)syscall(SYS_openat, AT_FDCWD, shared, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd == -1 || syscall(SYS_ftruncate, fd, sizeof(struct Report)) == -1) _exit(127);
  void* memory = mmap(NULL, sizeof(struct Report), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) _exit(127);
  syscall(SYS_close, fd);
  const char* kinds = getenv("FAULTS_KINDS");
  for (int i = 0; i < KIND_COUNT; ++i) counted[i] = kinds == NULL || strchr(kinds, KINDS[i]) != NULL;
  at = number_of("FAULTS_AT", 0);
  until = number_of("FAULTS_UNTIL", at);
  part = number_of("FAULTS_PART", part);
  pause_us = number_of("FAULTS_US", 0);
  harm_errno = (int)number_of("FAULTS_ERRNO", EIO);
  const char* name = getenv("FAULTS_DO");
  for (int i = 0; name != NULL && i <= NOSYNC; ++i)
    if (strcmp(name, kHarms[i]) == 0) harm = (enum Harm)i;
  snprintf(prefix, sizeof(prefix), "%s", path);
  prefix_size = strlen(prefix);
  report = memory;
}

// A path is ours by its text: the rig gives the prefix as the program will write it.
static int is_below(const char* path) {
  return strncmp(path, prefix, prefix_size) == 0;
}

// Asked of the kernel each time: a table of descriptors would miss those that libc closes by itself.
static int is_ours(int fd) {
  if (report == NULL) return 0;
  char link[64], path[4096];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const long size = syscall(SYS_readlink, link, path, sizeof(path) - 1);
  if (size <= 0) return 0;
  path[size] = 0;
  return is_below(path);
}

static int is_ours_at(int fd, const char* path) {
  if (report == NULL) return 0;
  return path[0] == '/' ? is_below(path) : fd != AT_FDCWD && is_ours(fd);
}

static void die(void) {
  syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
  for (;;) pause();
}

static void rest(void) {
  struct timespec left = {(time_t)(pause_us / 1000000), (long)(pause_us % 1000000) * 1000};
  while (nanosleep(&left, &left) == -1 && errno == EINTR) {
  }
}

static void* die_late(void* unused) {
  (void)unused;
  rest();
  die();
  return NULL;
}

// Counts one call. What harm it comes to: KILL_BEFORE has happened by then, HANG is over.
static enum Harm count(char kind) {
  const long index = strchr(KINDS, kind) - KINDS;
  atomic_fetch_add(&report->kinds[index], 1);
  if (!counted[index]) return NONE;
  const unsigned long n = atomic_fetch_add(&report->calls, 1) + 1;
  if (n <= CALLS_MAX) report->order[n - 1] = kind;
  if (at == 0 || n < at || n > until) return NONE;
  atomic_fetch_add(&report->hits, 1);
  if (harm == KILL_BEFORE || harm == HANG) rest();
  if (harm == KILL_BEFORE) die();
  pthread_t thread;
  if (harm == KILL_LATE && pthread_create(&thread, NULL, die_late, NULL) != 0) die();
  return harm;
}

// A call that is no write: it succeeds, fails, or is the last.
static long call(char kind, int is_one, long (*act)(const long*), const long* arguments) {
  if (!is_one) return act(arguments);
  const enum Harm what = count(kind);
  if (what == FAIL || what == TORN) {
    errno = harm_errno;
    return -1;
  }
  const long result = act(arguments);
  if (what == KILL_AFTER || what == KILL_TORN) die();
  return result;
}

// In sectors where the descriptor takes nothing smaller.
static long write_part(int fd, const char* data, size_t size, off_t offset, int is_positioned) {
  const int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
  size_t some = size * part / 256;
  if (flags & O_DIRECT) some = some / SECTOR * SECTOR;
  if (some == 0) return 0;
  const long n = is_positioned ? syscall(SYS_pwrite64, fd, data, some, offset) : syscall(SYS_write, fd, data, some);
  return n < 0 ? 0 : n;  // a device of larger sectors: then nothing of it is written
}

static long write_all(int fd, const char* data, size_t size, off_t offset, int is_positioned) {
  const enum Harm what = is_ours(fd) ? count('w') : NONE;
  long n = 0;
  switch (what) {
    case FAIL:
      errno = harm_errno;
      return -1;
    case SHORT:
      n = write_part(fd, data, size, offset, is_positioned);
      if (n > 0) return n;
      break;
    case TORN:
      write_part(fd, data, size, offset, is_positioned);
      errno = harm_errno;
      return -1;
    case KILL_TORN:
      write_part(fd, data, size, offset, is_positioned);
      rest();
      die();
      break;
    default:
      break;
  }
  n = is_positioned ? syscall(SYS_pwrite64, fd, data, size, offset) : syscall(SYS_write, fd, data, size);
  if (what == KILL_AFTER) die();
  return n;
}

EXPORT ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  return write_all(fd, data, size, offset, 1);
}
EXPORT ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  return write_all(fd, data, size, offset, 1);
}
EXPORT ssize_t write(int fd, const void* data, size_t size) {
  return write_all(fd, data, size, 0, 0);
}

static long do_pread(const long* a) { return syscall(SYS_pread64, a[0], a[1], a[2], a[3]); }
EXPORT ssize_t pread(int fd, void* into, size_t size, off_t offset) {
  return call('r', is_ours(fd), do_pread, (const long[]){fd, (long)into, (long)size, offset});
}
EXPORT ssize_t pread64(int fd, void* into, size_t size, off64_t offset) {
  return call('r', is_ours(fd), do_pread, (const long[]){fd, (long)into, (long)size, offset});
}

static long do_fsync(const long* a) { return harm == NOSYNC ? 0 : syscall(SYS_fsync, a[0]); }
static long do_fdatasync(const long* a) { return harm == NOSYNC ? 0 : syscall(SYS_fdatasync, a[0]); }
EXPORT int fsync(int fd) { return (int)call('s', is_ours(fd), do_fsync, (const long[]){fd}); }
EXPORT int fdatasync(int fd) { return (int)call('s', is_ours(fd), do_fdatasync, (const long[]){fd}); }

static long do_ftruncate(const long* a) { return syscall(SYS_ftruncate, a[0], a[1]); }
static long do_fallocate(const long* a) { return syscall(SYS_fallocate, a[0], a[1], a[2], a[3]); }
EXPORT int ftruncate(int fd, off_t size) { return (int)call('t', is_ours(fd), do_ftruncate, (const long[]){fd, size}); }
EXPORT int ftruncate64(int fd, off64_t size) {
  return (int)call('t', is_ours(fd), do_ftruncate, (const long[]){fd, size});
}
EXPORT int fallocate(int fd, int mode, off_t offset, off_t size) {
  return (int)call('t', is_ours(fd), do_fallocate, (const long[]){fd, mode, offset, size});
}

static long do_renameat(const long* a) { return syscall(SYS_renameat, a[0], a[1], a[2], a[3]); }
static long do_unlinkat(const long* a) { return syscall(SYS_unlinkat, a[0], a[1], a[2]); }
static long do_mkdir(const long* a) { return syscall(SYS_mkdir, a[0], a[1]); }
EXPORT int renameat(int from_fd, const char* from, int to_fd, const char* to) {
  return (int)call('n', is_ours_at(from_fd, from), do_renameat, (const long[]){from_fd, (long)from, to_fd, (long)to});
}
EXPORT int rename(const char* from, const char* to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }
EXPORT int unlinkat(int fd, const char* path, int flags) {
  return (int)call('n', is_ours_at(fd, path), do_unlinkat, (const long[]){fd, (long)path, flags});
}
EXPORT int unlink(const char* path) { return unlinkat(AT_FDCWD, path, 0); }
EXPORT int mkdir(const char* path, mode_t mode) {
  return (int)call('n', is_ours_at(AT_FDCWD, path), do_mkdir, (const long[]){(long)path, mode});
}

static long do_flock(const long* a) { return syscall(SYS_flock, a[0], a[1]); }
EXPORT int flock(int fd, int operation) { return (int)call('l', is_ours(fd), do_flock, (const long[]){fd, operation}); }

static long do_openat(const long* a) { return syscall(SYS_openat, a[0], a[1], a[2], a[3]); }
static int open_at(int fd, const char* path, int flags, mode_t mode) {
  const int is_one = is_ours_at(fd, path);
  if (is_one && harm == NOSYNC) flags &= ~(O_DSYNC | O_SYNC | O_DIRECT);
  return (int)call(flags & O_CREAT ? 'n' : 'o', is_one, do_openat, (const long[]){fd, (long)path, flags, mode});
}
static mode_t mode_of(int flags, va_list arguments) {
  return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}
#define OPEN(name, parameters, fd)           \
  EXPORT int name parameters {               \
    va_list arguments;                       \
    va_start(arguments, flags);              \
    const mode_t mode = mode_of(flags, arguments); \
    va_end(arguments);                       \
    return open_at(fd, path, flags, mode);   \
  }
OPEN(open, (const char* path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char* path, int flags, ...), AT_FDCWD)
OPEN(openat, (int fd, const char* path, int flags, ...), fd)
OPEN(openat64, (int fd, const char* path, int flags, ...), fd)

// The ledger sets O_DIRECT so on a new file; that of nosync leaves it out. Locks and the rest pass.
static int control(int fd, int operation, long argument) {
  if (harm == NOSYNC && operation == F_SETFL && is_ours(fd)) argument &= ~(long)O_DIRECT;
  return (int)syscall(SYS_fcntl, fd, operation, argument);
}
#define FCNTL(name)                                   \
  EXPORT int name(int fd, int operation, ...) {       \
    va_list arguments;                                \
    va_start(arguments, operation);                   \
    const long argument = va_arg(arguments, long);    \
    va_end(arguments);                                \
    return control(fd, operation, argument);          \
  }
FCNTL(fcntl)
FCNTL(fcntl64)
