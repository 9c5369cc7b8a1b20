// Tests of cli/check.h: what it prints and how it exits.
#include "cli/check.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iostream>

namespace llmproxy {
namespace {

namespace fs = std::filesystem;

class Check : public testing::Test {
 protected:
  Check() {
    std::string name = (fs::temp_directory_path() / "check-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) abort();
    dir_ = name;
    path_ = dir_ / "c.toml";
    unsetenv("LLMPROXY_DB_URI");
  }
  ~Check() override {
    unsetenv("LLMPROXY_DB_URI");
    fs::remove_all(dir_);
  }

  // What `check` printed and returned: "CODE|STDOUT|STDERR".
  std::string check(const std::string& text) const {
    std::ofstream(path_) << text;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = run_check(path_);
    std::cout.flush();
    const std::string out = testing::internal::GetCapturedStdout();
    const std::string err = testing::internal::GetCapturedStderr();
    return std::to_string(code) + "|" + out + "|" + err;
  }

  fs::path dir_;
  std::string path_;
};

constexpr const char* kOne = "[backends.x]\nurl = \"http://h\"\ntoken = \"t\"\n";

TEST_F(Check, GoodFile) {
  EXPECT_EQ(check(kOne), "0|" + path_ + ": ok, 1 backend\n|");
  EXPECT_EQ(check(std::string(kOne) + "[backends.y]\nurl = \"http://h\"\ntoken = \"t\"\n"),
            "0|" + path_ + ": ok, 2 backends\n|");
}

TEST_F(Check, WarningIsPrintedAndIsNoError) {
  EXPECT_EQ(check(""), "0|" + path_ + ": ok, 0 backends\n|" + path_ +
                           ": warning: backends: none configured; every model will be refused\n");
}

TEST_F(Check, EveryErrorIsPrinted) {
  EXPECT_EQ(check(std::string("prot = 1\nport = 99999\n") + kOne),
            "78||" + path_ + ":1:1: error: prot: unknown key; did you mean `port`?\n" + path_ +
                ":2:8: error: port: expected a whole number, 0 to 65535, found 99999\n");
}

TEST_F(Check, WhatDriverAndTlsRefuseIsToldInItsPlace) {
  const std::string garbage = dir_ / "garbage.pem";
  std::ofstream(garbage) << "no certificate at all\n";
  EXPECT_EQ(check("prot = 1\n[db]\nuri = \"mongodb://u:SEC@h:99999/\"\n" + std::string(kOne) +
                  "ca_file = \"" + garbage + "\"\n"),
            "78||" + path_ + ":1:1: error: prot: unknown key; did you mean `port`?\n" + path_ +
                ":3:7: error: db.uri: MongoDB URI: Invalid host string in URI\n" + path_ +
                ":7:11: error: backends.x.ca_file: expected the path of a PEM file with the "
                "authorities to trust; it holds no certificate that can be read: no certificate or "
                "crl found\n");
}

TEST_F(Check, SqliteTakesNoOptions) {
  for (const char* uri : {"sqlite:///a/b?mode=ro", "sqlite://b#c"}) {
    EXPECT_EQ(check("[db]\nuri = \"" + std::string(uri) + "\"\n" + kOne),
              "78||" + path_ +
                  ":2:7: error: db.uri: expected a path behind sqlite://; it takes no options, so "
                  "no ? and no #\n");
  }
  EXPECT_EQ(check("[db]\nuri = \"sqlite:///a/b%3Fc\"\n" + std::string(kOne)).substr(0, 2), "0|");
}

TEST_F(Check, AnOptionThatTheDriverDoesNotKnowIsAWarning) {
  EXPECT_EQ(check("[db]\nuri = \"mongodb://u:SEC@h/?retryWrite=VAL\"\n" + std::string(kOne)),
            "0|" + path_ + ": ok, 1 backend\n|" + path_ +
                ":2:7: warning: db.uri: the MongoDB driver does not know retryWrite, and goes "
                "without\n");
}

TEST_F(Check, DatabaseFromTheEnvironment) {
  setenv("LLMPROXY_DB_URI", "sqlite://other.db", 1);
  std::ofstream(path_) << kOne;
  const auto config = load_config_or_report(path_);
  ASSERT_NE(config, nullptr);
  EXPECT_EQ(config->db_uri, "sqlite://other.db");
  setenv("LLMPROXY_DB_URI", "mongodb://u:p/w@h/", 1);
  EXPECT_TRUE(check(kOne).starts_with("78||" + path_ +
                                      ": error: LLMPROXY_DB_URI: MongoDB URI: expected %40 for @"));
  setenv("LLMPROXY_DB_URI", "other.db", 1);
  EXPECT_TRUE(
      check(kOne).starts_with("78||" + path_ + ": error: LLMPROXY_DB_URI: expected mongodb"));
}

}  // namespace
}  // namespace llmproxy
