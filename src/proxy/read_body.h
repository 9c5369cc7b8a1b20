// Reading what a body says without holding up the loop, and within the memory budget.
#pragma once

#include <functional>
#include <string_view>
#include <utility>

#include "api/endpoint.h"
#include "net/task.h"
#include "net/worker.h"
#include "proxy/memory_budget.h"
#include "proxy/server.h"

namespace llmproxy {

// Calls `read`, which reads `body`: at once where it is short, else on the worker's threads, with
// the memory that it takes charged to the budget. False: there is no room, and it was not called.
template <class Read>
net::Task<bool> read_body(Server& server, std::string_view body, MemoryBudget::Use use, Read read) {
  if (body.size() <= kShortBody) {
    read();
    co_return true;
  }
  MemoryShare share(server.parts().memory, use);
  bool has_room = false;
  std::function<void()> job = [&] {
    has_room = share.raise_to(reading_bytes(body));
    if (has_room) read();
  };
  const bool is_run = co_await server.parts().worker.run(server.loop(), std::move(job));
  co_return (is_run && has_room);
}

}  // namespace llmproxy
