// fork and exec rather than posix_spawn, for the core and for the end together with the parent.
#include "process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <thread>

#include "wire.h"

namespace llmproxy::bench {
namespace {

constexpr std::chrono::seconds kEndMax{60};
constexpr std::chrono::milliseconds kBetweenLooks{5};
constexpr int kCannotRun = 127;

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> environment() {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!std::string_view(*variable).starts_with("LLMPROXY_")) variables.emplace_back(*variable);
  }
  return variables;
}

}  // namespace

TemporaryDirectory::TemporaryDirectory()
    : path_(std::filesystem::temp_directory_path() / "llm-billing-proxy-bench-XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) fail_errno(path_);
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

int run_program(const char* name, const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& failure) {
    fmt::print(stderr, "{}: {}\n", name, failure.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

size_t number_of(const char* text) {
  size_t number = 0;
  const char* const end = text + std::strlen(text);
  const std::from_chars_result read = std::from_chars(text, end, number);
  return read.ec == std::errc() && read.ptr == end ? number : 0;
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  if (!(file << text).flush()) throw Failure("cannot write " + path);
}

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

size_t raise_open_files_limit() {
  constexpr rlim_t kWanted = 65'536;
  rlimit limit{kWanted, kWanted};
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0) return kWanted;
  getrlimit(RLIMIT_NOFILE, &limit);  // not root
  limit.rlim_cur = std::min(limit.rlim_max, kWanted);
  setrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

void pin_to_core(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(static_cast<size_t>(core), &cores);
  if (sched_setaffinity(0, sizeof cores, &cores) != 0) fail_errno("sched_setaffinity");
}

Process::Process(const std::vector<std::string>& command, const Files& files, int core,
                 const std::vector<std::string>& more_variables) {
  std::vector<std::string> words = command, variables = environment();
  variables.insert(variables.end(), more_variables.begin(), more_variables.end());
  const std::vector<char*> argv = pointers_to(words), envp = pointers_to(variables);
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (core != kAnyCore) CPU_SET(static_cast<size_t>(core), &cores);
  pid_ = fork();
  if (pid_ < 0) fail_errno("fork");
  if (pid_ > 0) return;
  // Only what is safe after a fork: other threads may have held any lock.
  constexpr int kMode = 0600;
  const int output = open(files.output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, kMode);
  const int errors = open(files.errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, kMode);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (core != kAnyCore && sched_setaffinity(0, sizeof cores, &cores) != 0) _exit(kCannotRun);
  if (output < 0 || errors < 0 || dup2(output, STDOUT_FILENO) < 0 ||
      dup2(errors, STDERR_FILENO) < 0) {
    _exit(kCannotRun);
  }
  execvpe(argv[0], argv.data(), envp.data());
  _exit(kCannotRun);
}

Process::~Process() {
  if (has_ended()) return;
  std::vector<pid_t> tree{pid_};
  try {
    tree = process_tree(pid_);                          // nginx's worker would live on
  } catch (const std::filesystem::filesystem_error&) {  // one has ended meanwhile
  }
  for (const pid_t each : tree) kill(each, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Process::signal(int number) const {
  kill(pid_, number);
}

bool Process::has_ended() {
  if (!has_ended_) has_ended_ = waitpid(pid_, &status_, WNOHANG) == pid_;
  return has_ended_;
}

int Process::wait() {
  const int64_t deadline = monotonic_ns() + std::chrono::nanoseconds(kEndMax).count();
  while (!has_ended() && monotonic_ns() < deadline) std::this_thread::sleep_for(kBetweenLooks);
  return has_ended_ && WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
}

std::vector<pid_t> process_tree(pid_t pid) {
  std::vector<pid_t> tree{pid};
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid))) {
    std::istringstream children(read_file(task.path() / "children"));
    for (pid_t child = 0; children >> child;) {
      const std::vector<pid_t> below = process_tree(child);
      tree.insert(tree.end(), below.begin(), below.end());
    }
  }
  return tree;
}

std::string output_of(const std::vector<std::string>& command,
                      const TemporaryDirectory& directory) {
  const std::string path = directory.path() + "/output";
  Process process(command, {.output = path});
  if (process.wait() != 0) return "";
  std::string text = read_file(path);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace llmproxy::bench
