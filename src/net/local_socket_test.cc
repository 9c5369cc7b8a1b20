// Lines over a Unix socket in a temporary directory: what is waited for and how long, and which
// files are replaced.
#include "net/local_socket.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace llmproxy::net {
namespace {

constexpr Milliseconds kLong{60'000};
constexpr Milliseconds kShort{20};

class LocalSocketTest : public testing::Test {
 protected:
  LocalSocketTest() {
    std::string name = std::filesystem::temp_directory_path() / "local_socket.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) std::abort();
    directory_ = name;
    path_ = directory_ + "/control.sock";
  }
  ~LocalSocketTest() override { std::filesystem::remove_all(directory_); }
  LocalListener listen() {
    std::string problem;
    auto listener = LocalListener::open(path_, problem);
    EXPECT_TRUE(listener) << problem;
    return std::move(*listener);
  }
  LocalConnection connect() {
    std::string problem;
    auto connection = LocalConnection::open(path_, problem);
    EXPECT_TRUE(connection) << problem;
    return std::move(*connection);
  }

  std::string directory_, path_;
};

TEST_F(LocalSocketTest, LinesGoBothWays) {
  LocalListener listener = listen();
  LocalConnection client = connect();
  auto server = listener.accept();
  ASSERT_TRUE(server);
  const std::string long_line(100'000, 'x');
  std::thread other([&] { EXPECT_TRUE(client.write(long_line + "\n", kLong)); });
  std::string line;
  EXPECT_TRUE(server->read_line(line, long_line.size(), kLong));
  EXPECT_EQ(line, long_line);
  other.join();
  EXPECT_TRUE(server->write("answer\n", kLong));
  EXPECT_TRUE(client.read_line(line, 100, kLong));
  EXPECT_EQ(line, "answer");
}

TEST_F(LocalSocketTest, OnlyItsOwnerMayOpenIt) {
  const mode_t before = umask(0);
  {
    const LocalListener listener = listen();
    struct stat status {};
    ASSERT_EQ(lstat(path_.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
  }
  umask(before);
  EXPECT_FALSE(std::filesystem::exists(path_)) << "it goes with its listener";
}

TEST_F(LocalSocketTest, ASocketThatWasLeftBehindIsReplaced) {
  std::string problem;
  {
    LocalListener first = listen();
    std::filesystem::rename(path_, path_ + ".kept");
  }
  std::filesystem::rename(path_ + ".kept", path_);
  EXPECT_FALSE(LocalConnection::open(path_, problem));
  EXPECT_NE(problem.find("refused"), std::string::npos) << problem;
  LocalListener second = listen();
  connect();
  EXPECT_TRUE(second.accept());
}

TEST_F(LocalSocketTest, AnotherFileInItsPlaceStays) {
  std::ofstream(path_) << "mine";
  std::string problem;
  EXPECT_FALSE(LocalListener::open(path_, problem));
  EXPECT_NE(problem.find("no socket"), std::string::npos) << problem;
  EXPECT_EQ(std::filesystem::file_size(path_), 4u);
}

TEST_F(LocalSocketTest, APathThatDoesNotFitIsToldWithItsLength) {
  path_ = directory_ + "/" + std::string(120, 'p');
  std::string problem;
  EXPECT_FALSE(LocalListener::open(path_, problem));
  EXPECT_NE(problem.find("at most 107 bytes"), std::string::npos) << problem;
  EXPECT_FALSE(LocalConnection::open(path_, problem));
}

TEST_F(LocalSocketTest, EveryWaitEnds) {
  LocalListener listener = listen();
  LocalConnection client = connect();
  auto server = listener.accept();
  std::string line;
  EXPECT_FALSE(server->read_line(line, 100, kShort)) << "nothing comes";
  EXPECT_TRUE(client.write("half a line", kLong));
  EXPECT_FALSE(server->read_line(line, 100, kShort));
  EXPECT_FALSE(server->write(std::string(size_t{16} << 20, 'x'), kShort)) << "nobody takes it";
}

TEST_F(LocalSocketTest, ALineHasABound) {
  LocalListener listener = listen();
  LocalConnection client = connect();
  auto server = listener.accept();
  EXPECT_TRUE(client.write(std::string(101, 'x') + "\n", kLong));
  std::string line;
  EXPECT_FALSE(server->read_line(line, 100, kLong));
}

TEST_F(LocalSocketTest, WhoLeavesIsGone) {
  LocalListener listener = listen();
  std::optional<LocalConnection> client = connect();
  auto server = listener.accept();
  EXPECT_TRUE(client->write("half a line", kLong));
  client.reset();
  std::string line;
  EXPECT_FALSE(server->read_line(line, 100, kLong));
  EXPECT_FALSE(server->write("answer\n", kLong)) << "and no signal ends the process";
}

TEST_F(LocalSocketTest, StopEndsTheWaitForConnections) {
  LocalListener listener = listen();
  std::thread waiting([&] { EXPECT_FALSE(listener.accept()); });
  listener.stop();
  waiting.join();
}

}  // namespace
}  // namespace llmproxy::net
