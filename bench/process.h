// Programs that a benchmark starts, and the directory they work in. All of it goes when its owner
// does.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace llmproxy::bench {

class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The exit status of a program that is `body`: what it throws is told on stderr.
int run_program(const char* name, const std::function<void()>& body);
size_t number_of(const char* text);  // a whole number of the command line; 0 for what is none

void write_file(const std::string& path, const std::string& text);
std::string read_file(const std::string& path);  // "" if there is none

size_t raise_open_files_limit();  // as far as the system allows; inherited by who is started

constexpr int kAnyCore = -1, kMeasuredCore = 0, kLoadCore = 1;
void pin_to_core(int core);  // this thread and those it starts

// Found in PATH, output and errors in files, no variable of LLMPROXY_*; killed if it still runs at
// the end.
class Process {
 public:
  struct Files {
    std::string output = "/dev/null";
    std::string errors = "/dev/null";
  };
  Process(const std::vector<std::string>& command, const Files& files, int core = kAnyCore,
          const std::vector<std::string>& more_variables = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  bool has_ended();  // asks once
  int wait();        // the exit status; -1 for a signal, or if it has not ended within kEndMax

 private:
  pid_t pid_ = 0;
  bool has_ended_ = false;
  int status_ = 0;
};

// The process and all below it.
std::vector<pid_t> process_tree(pid_t pid);

// What a command prints, without the last line end; "" if it fails.
std::string output_of(const std::vector<std::string>& command, const TemporaryDirectory& directory);

}  // namespace llmproxy::bench
