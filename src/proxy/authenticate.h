// Whose request is this? Authorization: Bearer TOKEN (RFC 6750, section 2.1) to a key.
#pragma once

#include <memory>

#include "base/result.h"
#include "billing/key.h"
#include "http/head.h"
#include "net/loop.h"
#include "proxy/key_store.h"

namespace llmproxy {

// Errors: 400 for several Authorization headers, 401, 503 when nobody can tell. The token is hashed
// here and goes no further.
net::Step<Result<std::shared_ptr<const Key>>> authenticate(const http::RequestHead& head,
                                                           KeyStore& keys, net::Loop& loop,
                                                           net::Interrupt& interrupt);

}  // namespace llmproxy
