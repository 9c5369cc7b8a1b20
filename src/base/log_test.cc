// Tests of base/log.h: lines, escapes, and readers that stall.
#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <sstream>
#include <vector>

#include "base/clock.h"

namespace llmproxy {
namespace {

using namespace std::chrono_literals;

// Only reached when a test fails: a waiting call returns long before.
constexpr auto kLong = 60s;

class Pipe {
 public:
  explicit Pipe(int flags = 0) {
    if (pipe2(fds_, O_CLOEXEC | flags) != 0) abort();
  }
  ~Pipe() {
    close_reader();
    close_writer();
  }

  // The smallest pipe, one page: once anything is in it, poll(2) calls it full.
  void shrink() {
    if (fcntl(fds_[1], F_SETPIPE_SZ, 4096) < 0) abort();
  }

  int writer() const { return fds_[1]; }
  int reader() const { return fds_[0]; }
  void close_reader() { close_one(fds_[0]); }
  void close_writer() { close_one(fds_[1]); }

  std::string read_once() const {
    std::string bytes(1 << 16, '\0');
    const ssize_t got = ::read(fds_[0], bytes.data(), bytes.size());
    bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return bytes;
  }

  std::string read_to_end() const {
    std::string all;
    for (std::string piece = read_once(); !piece.empty(); piece = read_once()) all += piece;
    return all;
  }

 private:
  static void close_one(int& fd) {
    if (fd >= 0) close(fd);
    fd = -1;
  }

  int fds_[2];
};

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// What one line looks like in the log, without its time.
std::string logged(LogLevel level, std::string_view text) {
  Pipe pipe;
  {
    Log log(pipe.writer(), LogLevel::kDebug);
    log.write(level, text);
  }
  pipe.close_writer();
  const std::string all = pipe.read_to_end();
  return all.size() > 25 ? all.substr(25) : all;
}

TEST(LogTest, LineHasTimeLevelAndText) {
  Pipe pipe;
  {
    Log log(pipe.writer());
    log.info("listening on {}:{}", "127.0.0.1", 8080);
  }
  pipe.close_writer();
  const std::string all = pipe.read_to_end();
  EXPECT_TRUE(parse_utc(all.substr(0, 24))) << all;
  EXPECT_EQ(all.substr(23), "Z INFO listening on 127.0.0.1:8080\n");
}

TEST(LogTest, EachLevelHasItsName) {
  EXPECT_EQ(logged(LogLevel::kDebug, "x"), "DEBUG x\n");
  EXPECT_EQ(logged(LogLevel::kInfo, "x"), "INFO x\n");
  EXPECT_EQ(logged(LogLevel::kWarning, "x"), "WARNING x\n");
  EXPECT_EQ(logged(LogLevel::kError, "x"), "ERROR x\n");
  EXPECT_EQ(logged(LogLevel::kCritical, "x"), "CRITICAL x\n");
}

TEST(LogTest, WhatCouldForgeOrColourALineIsEscaped) {
  const std::pair<std::string_view, const char*> cases[] = {
      {"", ""},
      {"plain text ~", "plain text ~"},
      {"ends in newline\r\n", "ends in newline"},
      {"a\nb\rc\td", R"(a\x0ab\x0dc\x09d)"},
      {{"a\0b", 3}, R"(a\x00b)"},
      {"\x1b[31mred\x7f", R"(\x1b[31mred\x7f)"},
      {"za\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87 \xe2\x82\xac \xf0\x9f\x98\x80",
       "za\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87 \xe2\x82\xac \xf0\x9f\x98\x80"},
      {"\xc2\x9b"
       "1m",
       R"(\xc2\x9b1m)"},  // CSI as a C1 control character
      {"\xc2\xa0", "\xc2\xa0"},
      {"\x80", R"(\x80)"},
      {"\xff\xfe", R"(\xff\xfe)"},
      {"\xc0\xaf", R"(\xc0\xaf)"},                  // overlong
      {"\xe0\x80\xaf", R"(\xe0\x80\xaf)"},          // overlong
      {"\xf0\x80\x80\xaf", R"(\xf0\x80\x80\xaf)"},  // overlong
      {"\xed\xa0\x80", R"(\xed\xa0\x80)"},          // surrogate
      {"\xed\x9f\xbf", "\xed\x9f\xbf"},
      {"\xf4\x90\x80\x80", R"(\xf4\x90\x80\x80)"},  // above U+10FFFF
      {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
      {"cut \xe2\x82", R"(cut \xe2\x82)"},
      {"cut \xf0\x9f\x98", R"(cut \xf0\x9f\x98)"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(logged(LogLevel::kInfo, text), std::string("INFO ") + expected + "\n");
  }
}

TEST(LogTest, OnlyLevelsThatAreOn) {
  Pipe pipe;
  {
    Log log(pipe.writer(), LogLevel::kWarning);
    log.info("1");
    log.write(LogLevel::kInfo, "2");
    log.warning("3");
    log.set_level(LogLevel::kDebug);
    log.debug("4");
    log.set_level(LogLevel::kCritical);
    log.error("5");
    log.write(LogLevel::kCritical, "6");
    log.announce(LogLevel::kInfo, "7");
  }
  pipe.close_writer();
  std::string ends;
  for (const std::string& line : split_lines(pipe.read_to_end())) ends += line.back();
  EXPECT_EQ(ends, "3467");
}

TEST(LogTest, LinesOfManyThreadsStayWholeAndInOrder) {
  constexpr int kThreads = 4;
  constexpr int kLines = 500;
  Pipe pipe;
  std::string all;
  std::thread reader([&] { all = pipe.read_to_end(); });
  {
    Log log(pipe.writer());
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&log, thread] {
        for (int i = 0; i < kLines; ++i) log.info("thread {} line {} end", thread, i);
      });
    }
    threads.clear();
  }
  pipe.close_writer();
  reader.join();
  std::vector<int> next(kThreads, 0);
  for (const std::string& line : split_lines(all)) {
    int thread = -1;
    int number = -1;
    ASSERT_EQ(sscanf(line.c_str() + 25, "INFO thread %d line %d end", &thread, &number), 2) << line;
    EXPECT_EQ(number, next.at(static_cast<size_t>(thread))++);
  }
  EXPECT_EQ(next, std::vector<int>(kThreads, kLines));
}

TEST(LogTest, ManyWholeLinesGoOutInOneWrite) {
  Pipe pipe(O_DIRECT);  // one write is one read; the one page holds one write
  pipe.shrink();
  Log log(pipe.writer());
  log.info("first");
  pollfd entry{pipe.reader(), POLLIN, 0};
  ASSERT_EQ(poll(&entry, 1, static_cast<int>(std::chrono::milliseconds(kLong).count())), 1);
  for (int i = 0; i < 200; ++i) log.info("line {}", i);
  EXPECT_EQ(split_lines(pipe.read_once()).size(), 1U);  // the page was taken before the 200 came
  size_t lines = 0;
  size_t writes = 0;
  while (lines < 200) {
    const std::string piece = pipe.read_once();
    ASSERT_TRUE(piece.ends_with('\n'));
    EXPECT_LE(piece.size(), 4096U);
    lines += split_lines(piece).size();
    ++writes;
  }
  EXPECT_LE(writes, 4U);  // 200 lines of less than 45 bytes; the first of them may have gone alone
}

TEST(LogTest, StalledReaderBlocksNobodyAndDropsAreTold) {
  Pipe pipe;
  pipe.shrink();
  Log log(pipe.writer());
  const std::string text(1000, 'x');
  constexpr uint64_t kLines = 10'000;  // more than twice the queue: one batch waits at the pipe
  for (uint64_t i = 0; i < kLines; ++i) log.write(LogLevel::kInfo, text);
  const uint64_t dropped = log.dropped();
  EXPECT_GT(dropped, 0U);

  uint64_t whole = 0;
  uint64_t told = 0;
  std::string rest;
  while (whole + told < kLines) {
    rest += pipe.read_once();
    for (size_t end = rest.find('\n'); end != std::string::npos; end = rest.find('\n')) {
      uint64_t number = 0;
      if (sscanf(rest.c_str() + 25, "WARNING %lu log lines dropped", &number) == 1) {
        told += number;
      } else {
        EXPECT_EQ(rest.substr(25, end - 25), "INFO " + text);
        ++whole;
      }
      rest.erase(0, end + 1);
    }
  }
  EXPECT_EQ(told, dropped);
  EXPECT_EQ(whole, kLines - dropped);
  log.info("after");
  EXPECT_TRUE(pipe.read_once().ends_with("INFO after\n"));
}

TEST(LogTest, ErrorsFindRoomInAQueueFullOfOtherLines) {
  Pipe pipe;
  pipe.shrink();
  Log log(pipe.writer(), LogLevel::kInfo, 1ms);
  const std::string text(1000, 'x');
  for (int i = 0; i < 10; ++i) log.info("{}", text);  // more than the pipe holds
  pollfd entry{pipe.reader(), POLLIN, 0};
  ASSERT_EQ(poll(&entry, 1, static_cast<int>(std::chrono::milliseconds(kLong).count())), 1);
  while (log.dropped() < 10'000) log.write(LogLevel::kWarning, text);
  const uint64_t dropped = log.dropped();
  constexpr size_t kErrors = Log::kErrorBytesKept / 1100;
  for (size_t i = 0; i < kErrors; ++i) {
    log.write(i % 2 == 0 ? LogLevel::kError : LogLevel::kCritical, text);
  }
  EXPECT_EQ(log.dropped(), dropped);
  log.write(LogLevel::kWarning, text);  // no room for others yet
  EXPECT_EQ(log.dropped(), dropped + 1);
  while (log.dropped() == dropped + 1) log.write(LogLevel::kError, text);  // theirs has an end, too

  size_t errors = 0;
  std::string rest;
  while (errors < kErrors) {
    rest += pipe.read_once();
    for (size_t end = rest.find('\n'); end != std::string::npos; end = rest.find('\n')) {
      const std::string level = rest.substr(25, 5);
      errors += level == "ERROR" || level == "CRITI" ? 1 : 0;
      rest.erase(0, end + 1);
    }
  }
}

TEST(LogTest, LineLongerThanTheQueueIsDropped) {
  Pipe pipe;
  {
    Log log(pipe.writer());
    log.write(LogLevel::kInfo, std::string(Log::kQueueBytesMax, 'x'));
    EXPECT_EQ(log.dropped(), 1U);
  }
  pipe.close_writer();
  EXPECT_TRUE(
      pipe.read_to_end().ends_with("WARNING 1 log lines dropped: stderr is read too slowly\n"));
}

TEST(LogTest, FlushWaitsForTheLastLineOnly) {
  Pipe pipe(O_NONBLOCK);  // the log must stand a descriptor that somebody made non-blocking
  Log log(pipe.writer());
  for (int i = 0; i < 20; ++i) log.info("line {}", i);
  log.flush(kLong);
  EXPECT_EQ(split_lines(pipe.read_once()).size(), 20U);
  log.flush(kLong);  // nothing queued: at once
}

TEST(LogTest, FlushGivesUpOnAStalledReader) {
  Pipe pipe;
  pipe.shrink();
  Log log(pipe.writer(), LogLevel::kInfo, 1ms);
  for (int i = 0; i < 1000; ++i) log.info("line {}", i);
  log.flush(1ms);
}

TEST(LogTest, DestructorGivesUpOnAStalledReader) {
  Pipe pipe;
  pipe.shrink();
  Log log(pipe.writer(), LogLevel::kInfo, 1ms);
  for (int i = 0; i < 1000; ++i) log.info("line {}", i);
}

// A terminal that nobody reads: poll(2) says that there is room, and write(2) blocks all the same.
TEST(LogTest, DestructorLeavesAThreadBehindThatHangsInWrite) {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(terminal, 0);
  ASSERT_EQ(grantpt(terminal), 0);
  ASSERT_EQ(unlockpt(terminal), 0);
  const int fd = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  {
    Log log(fd, LogLevel::kInfo, 1ms);
    for (int i = 0; i < 2000; ++i) log.info("line {}", i);
  }
  close(terminal);  // sets the thread free: its write(2) fails. `fd` stays open for it.
}

TEST(LogTest, ReaderThatLeftIsNoReasonToDie) {
  Pipe pipe;
  pipe.close_reader();
  Log log(pipe.writer());
  log.info("nobody");
  log.flush(kLong);
  EXPECT_EQ(log.dropped(), 1U);
  log.info("still nobody");
  log.flush(kLong);
  EXPECT_EQ(log.dropped(), 2U);
}

}  // namespace
}  // namespace llmproxy
