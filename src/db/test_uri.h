// For the tests of this folder: where their databases are. Not part of the program.
#pragma once

#include <stdlib.h>  // mkdtemp is POSIX's

#include <filesystem>
#include <string>

namespace llmproxy {

constexpr const char* kHowToStartMongo =
    "TEST_MONGODB_URI is not set. Start a server with `tests/mongo/start 27017`, then set "
    "TEST_MONGODB_URI=mongodb://127.0.0.1:27017; or leave these out with --gtest_filter=-Mongo*";

inline std::string test_mongodb_uri() {
  const char* uri =
      std::getenv("TEST_MONGODB_URI");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return uri == nullptr ? "" : uri;
}

// A directory that goes with the object, and the file in it.
class TemporarySqlite {
 public:
  TemporarySqlite() {
    std::string name = (std::filesystem::temp_directory_path() / "llmproxy-XXXXXX").native();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    directory_ = name;
  }
  ~TemporarySqlite() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  TemporarySqlite(const TemporarySqlite&) = delete;
  TemporarySqlite& operator=(const TemporarySqlite&) = delete;

  const std::filesystem::path& directory() const { return directory_; }
  std::string path() const { return (directory_ / "test.db").native(); }
  std::string uri() const { return "sqlite://" + path(); }

 private:
  std::filesystem::path directory_;
};

}  // namespace llmproxy
