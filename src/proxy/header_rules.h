// Which header fields pass through the proxy: allow-lists in both directions, nothing else does.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "http/head.h"
#include "net/buffer.h"
#include "proxy/secret_mask.h"

namespace llmproxy {

// Adds "Name: value\r\n" for each client header that a backend gets to see.
void add_call_headers(net::Buffer& out, const http::RequestHead& head);

// The same for each backend header that the client gets to see. A value that holds the backend's
// token is left out.
void append_reply_headers(std::string& out, const http::ResponseHead& head, const SecretMask& mask);

// The media type without parameters, compared in any case.
bool is_event_stream(const http::ResponseHead& head);

// Has a Content-Encoding that changes the bytes (gzip and the like).
bool is_encoded(const http::ResponseHead& head);

}  // namespace llmproxy
