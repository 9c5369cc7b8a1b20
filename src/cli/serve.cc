// Start, signals, stop. SIGHUP reloads; the first SIGTERM or SIGINT drains, the second cuts. Where
// no file was read there is nothing to reload: SIGHUP, a terminal that has gone, is as SIGTERM.
#include "cli/serve.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <latch>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "admin/control.h"
#include "admin/ledger_command.h"
#include "base/cores.h"
#include "base/file.h"
#include "base/filesystem.h"
#include "base/thread_name.h"
#include "billing/ledger.h"
#include "cli/check.h"
#include "cli/keys.h"
#include "cli/ledger.h"
#include "db/open.h"
#include "net/address.h"
#include "net/listener.h"
#include "proxy/key_store.h"
#include "proxy/server.h"

namespace llmproxy {
namespace {

constexpr int kExitSoftware = 70;
constexpr std::chrono::seconds kAbortMax{10};  // from the cut until every session has settled

sigset_t serve_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGHUP, SIGTERM, SIGINT}) sigaddset(&set, number);
  return set;
}

// The signals that main waits for, as a descriptor.
class Signals {
 public:
  Signals() {
    block_serve_signals();
    const sigset_t set = serve_signals();
    std::signal(SIGPIPE, SIG_IGN);
    fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    ended_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd_ < 0 || ended_fd_ < 0) {
      throw std::system_error(errno, std::generic_category(), "signalfd");
    }
  }
  ~Signals() {
    close(fd_);
    close(ended_fd_);
  }

  void tell_ended() const {  // any thread: the last server has ended
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(ended_fd_, &one, sizeof one);
  }

  static constexpr int kEnded = 0, kDeadline = -1;
  // A signal's number, kEnded, or kDeadline.
  int wait(MonotonicTime deadline) const {
    for (;;) {
      pollfd fds[2] = {{fd_, POLLIN, 0}, {ended_fd_, POLLIN, 0}};
      int timeout_ms = -1;
      if (deadline != MonotonicTime::max()) {
        const auto left = std::chrono::ceil<Milliseconds>(deadline - monotonic_now()).count();
        if (left <= 0) return kDeadline;
        timeout_ms = static_cast<int>(std::min<int64_t>(left, 1'000'000));
      }
      poll(fds, 2, timeout_ms);
      signalfd_siginfo info{};
      if (read(fd_, &info, sizeof info) == sizeof info) return static_cast<int>(info.ssi_signo);
      if (fds[1].revents & POLLIN) return kEnded;
    }
  }

 private:
  int fd_ = -1;
  int ended_fd_ = -1;
};

// Asks the database once, on a thread of its own, and warns when it does not answer: a driver may
// take as long over it as its URI says.
class FirstCheck {
 public:
  FirstCheck(std::shared_ptr<Database> database, Log& log) : state_(std::make_shared<State>(log)) {
    std::thread([state = state_, database = std::move(database)] {
      const std::string trouble = database->check();
      const std::lock_guard lock(state->mutex);
      if (trouble.empty() || state->is_left) return;
      state->log.warning("database: {}; serving all the same", trouble);
    }).detach();
  }
  // A check under way is left behind. It keeps the database alive, and touches nothing else.
  ~FirstCheck() {
    const std::lock_guard lock(state_->mutex);
    state_->is_left = true;
  }
  FirstCheck(const FirstCheck&) = delete;
  FirstCheck& operator=(const FirstCheck&) = delete;

 private:
  struct State {
    explicit State(Log& its_log) : log(its_log) {}
    Log& log;  // not touched once is_left
    std::mutex mutex;
    bool is_left = false;  // guarded by mutex
  };
  const std::shared_ptr<State> state_;
};

// All parts of a running proxy, in the order in which they are built.
class Proxy {
 public:
  Proxy(std::shared_ptr<const Config> config, const ServeHooks& hooks)
      : config_(std::move(config)), hooks_(hooks), log_(2, config_->log_level) {}

  int run();

 private:
  void announce();
  void warn_if_volatile(std::string_view what, const std::string& path, std::string_view key);
  int open_database_and_ledger();
  int open_ledger();
  void open_control(const std::string& ledger_path);
  int start_servers();
  int next_signal(MonotonicTime deadline) const;
  void wait_for_signals();
  void reload();
  bool drain();
  int stop();
  Parts parts() {
    return {log_, *keys_, *ledger_, ids_, resolver_, worker_, *memory_, connections_};
  }

  std::shared_ptr<const Config> config_;
  const ServeHooks& hooks_;
  Signals signals_;
  Log log_;
  std::shared_ptr<Database> database_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<ControlServer> control_;
  ObjectIdMint ids_;
  std::unique_ptr<MemoryBudget> memory_;
  std::atomic<size_t> connections_{0};
  std::vector<std::unique_ptr<Server>> servers_;
  // These go before the servers' loops: their threads post to them.
  net::Resolver resolver_;
  net::Worker worker_;
  std::unique_ptr<KeyStore> keys_;
  std::vector<std::thread> threads_;
  std::atomic<size_t> running_{0};
  std::optional<FirstCheck> first_check_;
};

int Proxy::run() {
  prctl(PR_SET_DUMPABLE, 0);  // tokens are in memory: no core dumps
  announce();
  if (const int code = open_database_and_ledger(); code != 0) return code;
  if (const int code = start_servers(); code != 0) return code;
  first_check_.emplace(database_, log_);
  wait_for_signals();
  return stop();
}

std::string absolute_path(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal();
}

constexpr std::string_view kSqlite = "sqlite://";

// The whole path of the file that the URI names; "" for MongoDB.
std::string database_file(const std::string& uri) {
  return uri.starts_with(kSqlite) ? absolute_path(uri.substr(kSqlite.size())) : "";
}

// For the log: no password, and a file by its whole path.
std::string describe_database(const std::string& uri) {
  const std::string file = database_file(uri);
  return file.empty() ? mask_uri(uri) : fmt::format("{}{}", kSqlite, file);
}

void Proxy::warn_if_volatile(std::string_view what, const std::string& path, std::string_view key) {
  const std::string kind = volatile_filesystem(path);
  if (kind.empty()) return;
  log_.warning(
      "{} {} is on {}: nothing there survives a restart of the machine or the container. Set {} to "
      "a place on a disk.",
      what, path, kind, key);
}

void Proxy::announce() {
  const std::string data_dir = absolute_path(config_->data_dir);
  log_.info("llm-billing-proxy {}", LLMPROXY_VERSION);
  if (!config_->path.empty()) log_.info("config {}", absolute_path(config_->path));
  log_.info("data_dir {}", data_dir);
  log_.info("database {}", describe_database(config_->db_uri));
  log_.info("threads {}, open files {}", config_->threads, raise_open_files_limit());
  warn_if_volatile("data_dir", data_dir, "data_dir");
  const std::string file = database_file(config_->db_uri);
  const bool is_in_data_dir = std::filesystem::path(file).parent_path() ==
                              std::filesystem::path(data_dir + "/").parent_path();
  if (!file.empty() && !is_in_data_dir) warn_if_volatile("database", file, "db.uri");
}

int Proxy::open_database_and_ledger() {
  Result<std::unique_ptr<Database>> opened = open_database(config_->db_uri);
  if (!opened.ok()) {
    log_.error("database: {}", opened.error().message);
    return database_exit_code(opened.error());
  }
  database_ = std::move(*opened);
  if (const int code = open_ledger(); code != 0) return code;
  keys_ = std::make_unique<KeyStore>(database_, log_, *config_);
  memory_ = std::make_unique<MemoryBudget>(config_->limits.memory_bytes_max);
  return 0;
}

int Proxy::open_ledger() {
  const std::string path = absolute_path(config_->data_dir + "/ledger");
  std::string problem;
  std::unique_ptr<Directory> directory = open_directory(path, problem);
  if (directory == nullptr) {
    const bool is_taken = problem == kDirectoryIsTaken;
    log_.error("ledger: {}: {}{}", path, problem,
               is_taken ? "; each proxy needs a data_dir of its own" : "");
    return is_taken ? kExitTryAgain : kExitUnavailable;
  }
  auto opened = Ledger::open(std::move(directory), database_, log_,
                             ledger_settings(*config_, database_->identity()));
  if (!opened) {
    log_.error("{} (in {})", opened.error().message, path);
    return opened.error().status;
  }
  ledger_ = std::move(*opened);
  if (hooks_.on_event) {
    ledger_->set_observer(
        [](const Event& event, void* hooks) {
          static_cast<const ServeHooks*>(hooks)->on_event(event);
        },
        const_cast<ServeHooks*>(&hooks_));
  }
  open_control(path);
  return 0;
}

// Without it the proxy does its work; a person's commands then need it stopped.
void Proxy::open_control(const std::string& ledger_path) {
  std::string problem;
  control_ = ControlServer::open(
      control_path(ledger_path),
      [this](std::string_view line) { return answer_line(*ledger_, line); }, problem);
  if (control_ == nullptr) {
    log_.warning("control socket: {}; `ledger resolve` and the like need the proxy stopped",
                 problem);
  }
}

int Proxy::start_servers() {
  std::string error;
  const net::ListenSocket socket = net::ListenSocket::open(config_->host, config_->port, error);
  if (socket.fd() < 0) {
    log_.error("cannot listen on {} port {}: {}", config_->host, config_->port, error);
    return kExitUnavailable;
  }
  for (unsigned i = 0; i < config_->threads; ++i) {
    servers_.push_back(std::make_unique<Server>(parts(), config_, socket));
  }
  running_ = servers_.size();
  for (const auto& server : servers_) {
    threads_.emplace_back([this, &server] {
      name_thread("server");
      server->run();
      if (--running_ == 0) signals_.tell_ended();
    });
  }
  if (config_->backends.empty()) log_.warning("no backends configured: every model is refused");
  log_.announce(LogLevel::kInfo, fmt::format("listening on {}", socket.address()));
  if (hooks_.on_listening) hooks_.on_listening(socket.address());
  return 0;
}

int Proxy::next_signal(MonotonicTime deadline) const {
  const int what = signals_.wait(deadline);
  return what == SIGHUP && config_->path.empty() ? SIGTERM : what;
}

void Proxy::wait_for_signals() {
  while (next_signal(MonotonicTime::max()) == SIGHUP) reload();
}

void Proxy::reload() {
  const LoadedConfig loaded = load_whole_config(config_->path);
  const bool is_usable = loaded.config != nullptr;
  if (is_usable && loaded.config->backends.empty() && !config_->backends.empty()) {
    // An editor that has not finished, more likely than the wish to refuse every model.
    const ConfigProblem none{true, 0, 0, "backends", "none; the old configuration stays"};
    log_.error("{}", format_problem(config_->path, none));
    return;
  }
  for (const ConfigProblem& problem : loaded.problems) {
    log_.write(problem.is_error ? LogLevel::kError : LogLevel::kWarning,
               format_problem(config_->path, problem));
  }
  if (!is_usable) {
    log_.error("Failed reloading config: {} has errors; the old configuration stays",
               config_->path);
    return;
  }
  const ConfigChange change = compare_configs(*config_, *loaded.config);
  const auto applied = apply_reload(*config_, *loaded.config);
  const auto seen = std::make_shared<std::latch>(static_cast<ptrdiff_t>(servers_.size()));
  for (const auto& server : servers_) server->reload(applied, [seen] { seen->count_down(); });
  seen->wait();  // each server answers between two events: at once
  config_ = applied;
  log_.set_level(applied->log_level);
  keys_->apply(*applied);
  memory_->set_limit(applied->limits.memory_bytes_max);

  std::vector<std::string_view> names;
  for (const auto& [name, backend] : applied->backends) names.push_back(name);
  const auto tell = [&](LogLevel level, const std::string& text) { log_.announce(level, text); };
  tell(LogLevel::kInfo,
       fmt::format("Config reloaded. Configured backends: {}", fmt::join(names, " ")));
  tell(LogLevel::kInfo, fmt::format("added=[{}] changed=[{}] removed=[{}] settings=[{}]",
                                    fmt::join(change.added, " "), fmt::join(change.changed, " "),
                                    fmt::join(change.removed, " "), fmt::join(change.live, " ")));
  for (const std::string& key : change.needs_restart) {
    tell(LogLevel::kWarning, fmt::format("needs restart: {}", key));
  }
}

// Finishes what is in flight. True when every session has ended.
bool Proxy::drain() {
  log_.info("stopping: no new connections; finishing what is in flight, at most {} s",
            std::chrono::duration<double>(config_->shutdown_timeout).count());
  for (const auto& server : servers_) server->drain();
  MonotonicTime deadline = monotonic_now() + config_->shutdown_timeout;
  for (bool is_aborting = false;;) {
    const int what = next_signal(deadline);
    if (what == Signals::kEnded) return true;
    if (what == SIGHUP) {
      log_.warning("SIGHUP while stopping: the configuration stays");
      continue;
    }
    if (is_aborting && what == Signals::kDeadline) return false;
    if (is_aborting) continue;
    is_aborting = true;
    log_.warning("cutting what is still in flight: {}",
                 what == Signals::kDeadline ? "shutdown_timeout has passed" : "second signal");
    for (const auto& server : servers_) server->abort();
    deadline = monotonic_now() + kAbortMax;
  }
}

int Proxy::stop() {
  const bool is_drained = drain();
  if (is_drained) {
    for (std::thread& thread : threads_) thread.join();
    keys_.reset();
  }
  control_.reset();
  const bool is_clean = ledger_->close(config_->flush_timeout);
  if (!is_drained) log_.error("some sessions did not end; leaving them");
  const LedgerCounts counts = ledger_->counts();
  log_.info("stopped: billed={} free={} unresolved={} delivered={} waiting={}", counts.billed,
            counts.free, counts.unresolved, counts.delivered, counts.backlog);
  if (!is_drained || !is_clean) {  // threads still run: nothing may be destroyed under them
    log_.flush(Log::kDrainMax);
    _exit(is_clean ? kExitSoftware : kExitOutput);
  }
  ledger_.reset();
  first_check_.reset();
  if (database_.use_count() > 1) {  // a thread hangs in the driver: nothing may go under it
    log_.flush(Log::kDrainMax);
    _exit(0);
  }
  return 0;
}

}  // namespace

void block_serve_signals() {
  const sigset_t set = serve_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void unblock_serve_signals() {
  std::signal(SIGHUP, SIG_IGN);
  const sigset_t set = serve_signals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

int database_exit_code(const Error& error) {
  return error.status == 503 ? kExitUnavailable : kExitConfig;
}

int serve(std::shared_ptr<const Config> config, const ServeHooks& hooks) {
  return Proxy(std::move(config), hooks).run();
}

}  // namespace llmproxy
