// The reply on its way to the client, and to the usage reader. Streams go event by event as they
// arrive; plain replies are read whole, settled, then sent. A client that leaves stops only the
// sending.
#pragma once

#include <optional>

#include "base/result.h"
#include "net/task.h"
#include "proxy/exchange.h"
#include "proxy/request.h"

namespace llmproxy {

// Both settle the request before its answer ends, and give the backend's connection back if it is
// clean.

// Relays to the end, or tells of an error inside the stream and cuts. An Error where nothing of it
// may be sent.
net::Task<MaybeError> relay_stream(Request& request, Exchange& exchange);

// An Error: nothing was sent to the client yet.
net::Task<MaybeError> relay_plain(Request& request, Exchange& exchange);

}  // namespace llmproxy
