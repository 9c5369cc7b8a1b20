// The listening socket and what each server has of it.
#include "net/listener.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <set>

#include "net/test_loop.h"

namespace llmproxy::net {
namespace {

class NoAcceptor final : public Listener::Acceptor {
 public:
  void on_accept(int fd) override { close(fd); }
  void on_accept_error(int) override {}
};

std::set<int> inherited_descriptors() {
  std::set<int> inherited;
  for (int fd = 0; fd < 1024; ++fd) {
    const int flags = fcntl(fd, F_GETFD);
    if (flags >= 0 && (flags & FD_CLOEXEC) == 0) inherited.insert(fd);
  }
  return inherited;
}

TEST(Listener, NoDescriptorIsLeftToAnotherProgram) {
  const std::set<int> before = inherited_descriptors();
  std::string error;
  const ListenSocket socket = ListenSocket::open("127.0.0.1", 0, error);
  ASSERT_GE(socket.fd(), 0) << error;
  Loop loop;
  NoAcceptor acceptor;
  const Listener listener(loop, socket, acceptor);
  EXPECT_EQ(inherited_descriptors(), before);
}

}  // namespace
}  // namespace llmproxy::net
