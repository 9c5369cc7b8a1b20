// The proxy itself: builds the parts in order, serves until told to stop, takes them down in order.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "billing/event.h"
#include "config/config.h"

namespace llmproxy {

// What `demo` adds; both may be empty. Called on the main and on the shipping thread.
struct ServeHooks {
  std::function<void(const std::string& address)> on_listening;
  std::function<void(const Event& event)> on_event;
};

// Blocks SIGHUP, SIGTERM and SIGINT for this thread and those it starts: serve() waits for them.
// The first thing that main does, so that none is missed and none ends the process before.
void block_serve_signals();

// For what does not serve: SIGTERM and SIGINT end it. SIGHUP does nothing, since who reloads a
// proxy by its name reaches every process of that name.
void unblock_serve_signals();

// 69 for a database that cannot be opened now, 78 for a URI that names none.
int database_exit_code(const Error& error);

// Blocks until SIGTERM or SIGINT (SIGHUP too, when `config` is of no file) has been dealt with.
// Exit code: 0; 69 when the address or data_dir/ledger cannot be had; 75 when another process has
// the latter; as database_exit_code and Ledger::open; 70 when sessions could not be ended;
// 74 when the ledger's disk does not answer at the end.
int serve(std::shared_ptr<const Config> config, const ServeHooks& hooks);

}  // namespace llmproxy
