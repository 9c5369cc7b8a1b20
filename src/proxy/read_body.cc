// Long bodies are read on the worker's threads.
#include "proxy/read_body.h"

#include "net/worker.h"

namespace llmproxy {

net::Task<bool> read_long_body(Server& server, std::string_view body, MemoryBudget::Use use,
                               std::function<void()> read) {
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
