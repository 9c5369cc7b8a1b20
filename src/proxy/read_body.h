// Reading what a body says without holding up the loop, and within the memory budget.
#pragma once

#include <functional>
#include <string_view>
#include <utility>

#include "api/endpoint.h"
#include "net/task.h"
#include "proxy/memory_budget.h"
#include "proxy/server.h"

namespace llmproxy {

// As read_body() of a body that is not short.
net::Task<bool> read_long_body(Server& server, std::string_view body, MemoryBudget::Use use,
                               std::function<void()> read);

// Calls `read`, which reads `body`: at once where it is short, else on the worker's threads, with
// the memory that it takes charged to the budget. False: there is no room, and it was not called.
template <class Read>
net::Step<bool> read_body(Server& server, std::string_view body, MemoryBudget::Use use, Read read) {
  if (body.size() > kShortBody) return read_long_body(server, body, use, std::move(read));
  read();
  return true;
}

}  // namespace llmproxy
