// Reads a streamed chat completion: `data:` events of chat.completion.chunk objects, then [DONE].
#pragma once

#include <memory>

#include "api/endpoint.h"

namespace llmproxy {

std::unique_ptr<StreamReader> read_chat_stream(const Call& call, UsagePolicy policy);

}  // namespace llmproxy
