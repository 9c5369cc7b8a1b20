// A strict subset of RFC 3986: what a backend or a database address needs, and nothing that two
// readers could understand differently.
#include "config/url.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>

namespace llmproxy {

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_hex_digit(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_address(int family, std::string_view host) {
  unsigned char bytes[sizeof(in6_addr)];
  return host.find('\0') == std::string_view::npos &&
         inet_pton(family, std::string(host).c_str(), bytes) == 1;
}

// Underscores are no host name of RFC 1123, but common for services of docker compose.
bool is_label(std::string_view label) {
  return !label.empty() && label.size() <= 63 && label.front() != '-' && label.back() != '-' &&
         std::all_of(label.begin(), label.end(),
                     [](char c) { return is_letter(c) || is_digit(c) || c == '-' || c == '_'; });
}

bool is_host_name(std::string_view host) {
  if (host.empty() || host.size() > 253) return false;
  std::string_view label;
  for (std::string_view rest = host; !rest.empty() || label.data() == nullptr;) {
    const size_t dot = rest.find('.');
    label = rest.substr(0, dot);
    if (!is_label(label)) return false;
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
    if (rest.empty()) return false;
  }
  // The last label of a name is never a number: 10.0.0.256 is a mistyped address.
  return !std::all_of(label.begin(), label.end(), is_digit);
}

// RFC 3986 pchar, with %-escapes as they are.
bool is_path_segment(std::string_view segment) {
  if (segment.empty() || segment == "." || segment == "..") return false;
  for (size_t i = 0; i < segment.size(); ++i) {
    const char c = segment[i];
    if (c == '%') {
      if (i + 2 >= segment.size()) return false;
      if (!is_hex_digit(segment[i + 1]) || !is_hex_digit(segment[i + 2])) return false;
    } else if (!is_letter(c) && !is_digit(c) &&
               std::string_view("-._~!$&'()*+,;=:@").find(c) == std::string_view::npos) {
      return false;
    }
  }
  return true;
}

bool is_path(std::string_view path) {  // "" or "/segment/segment"
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::string_view segment = path.substr(0, path.find('/'));
    if (!is_path_segment(segment)) return false;
    path.remove_prefix(segment.size());
  }
  return true;
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  const auto same = [](char a, char b) { return (is_letter(a) ? (a | 0x20) : a) == b; };
  if (text.size() < prefix.size()) return false;
  if (!std::equal(prefix.begin(), prefix.end(), text.begin(),
                  [&](char expected, char c) { return same(c, expected); })) {
    return false;
  }
  text.remove_prefix(prefix.size());
  return true;
}

// HOST, HOST:PORT, [IPV6] or [IPV6]:PORT.
std::string parse_authority(std::string_view authority, Backend& backend) {
  const uint16_t default_port = backend.is_https ? 443 : 80;
  const bool is_bracketed = authority.starts_with('[');
  const size_t host_end = is_bracketed ? authority.find(']') : authority.find(':');
  if (is_bracketed && host_end == std::string_view::npos)
    return "expected ] after the IPv6 address";
  backend.host = authority.substr(is_bracketed ? 1 : 0, host_end - (is_bracketed ? 1 : 0));
  if (is_bracketed ? !is_address(AF_INET6, backend.host)
                   : !is_host_name(backend.host) && !is_address(AF_INET, backend.host)) {
    return "expected a host name, an IPv4 address or an [IPv6 address] after ://";
  }
  std::string_view rest;
  if (host_end != std::string_view::npos)
    rest = authority.substr(host_end + (is_bracketed ? 1 : 0));
  backend.port = default_port;
  if (!rest.empty()) {
    const char* const end = rest.data() + rest.size();
    const auto parsed = std::from_chars(rest.data() + 1, end, backend.port);
    if (rest[0] != ':' || parsed.ec != std::errc() || parsed.ptr != end || backend.port == 0) {
      return "expected a port from 1 to 65535 after the host";
    }
  }
  backend.authority = is_bracketed ? fmt::format("[{}]", backend.host) : backend.host;
  if (backend.port != default_port) backend.authority += fmt::format(":{}", backend.port);
  return "";
}

}  // namespace

bool is_host(std::string_view host) {
  return is_host_name(host) || is_address(AF_INET, host) || is_address(AF_INET6, host);
}

bool is_database_uri(std::string_view uri) {
  if (std::any_of(uri.begin(), uri.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
    return false;
  }
  for (const std::string_view scheme : {"mongodb://", "mongodb+srv://", "sqlite://"}) {
    if (!uri.starts_with(scheme)) continue;
    const bool is_directory = scheme == "sqlite://" && uri.ends_with('/');
    return uri.size() > scheme.size() && !is_directory;
  }
  return false;
}

std::string parse_backend_url(std::string_view url, Backend& backend) {
  std::string_view rest = url;
  backend.is_https = take_prefix(rest, "https://");
  if (!backend.is_https && !take_prefix(rest, "http://")) {
    return "expected a URL that begins with http:// or https://";
  }
  if (rest.find_first_of("?#") != std::string_view::npos) {
    return "expected a URL without query (?) and fragment (#)";
  }
  const size_t authority_end = std::min(rest.find('/'), rest.size());
  const std::string_view authority = rest.substr(0, authority_end);
  if (authority.find('@') != std::string_view::npos) {
    return "expected a URL without user and password: the server's secret goes into `token`";
  }
  if (std::string text = parse_authority(authority, backend); !text.empty()) return text;

  std::string_view path = rest.substr(authority_end);
  if (path.ends_with('/')) path.remove_suffix(1);
  if (!is_path(path)) {
    return "expected a path of plain segments, such as /prefix (no blanks, no //, no . or ..)";
  }
  backend.base_path = path;
  backend.url = url;
  return "";
}

}  // namespace llmproxy
