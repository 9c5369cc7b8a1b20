// Addresses in the configuration: host names, backend URLs, database URIs. Looks at the text only
// and asks no name server.
#pragma once

#include <string>
#include <string_view>

#include "config/config.h"

namespace llmproxy {

// An IPv4 or IPv6 address (no brackets), or a host name.
bool is_host(std::string_view host);

inline constexpr std::string_view kExpectedDatabaseUri =
    "expected mongodb://..., mongodb+srv://..., sqlite://relative/path or sqlite:///absolute/path";
bool is_database_uri(std::string_view uri);

// Fills in url, is_https, host, port, authority and base_path of `backend`. Returns "", or what was
// expected; never a part of `url`, which may hold a password.
std::string parse_backend_url(std::string_view url, Backend& backend);

}  // namespace llmproxy
