// Heads are written by hand into one string that goes out with the body in one write.
#include "proxy/reply.h"

#include <fmt/format.h>

#include <array>
#include <ctime>

#include "api/error_body.h"
#include "proxy/request.h"

namespace llmproxy {
namespace {

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 402:
      return "Payment Required";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 424:
      return "Failed Dependency";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    case 529:
      return "Overloaded";
    default:
      return "Status";
  }
}

// RFC 9110, section 6.6.1. Formatted once a second and thread.
std::string_view date_header() {
  thread_local std::time_t formatted_for = 0;
  thread_local std::array<char, 48> text{};
  const std::time_t now = std::time(nullptr);
  if (now != formatted_for) {
    std::tm utc{};
    gmtime_r(&now, &utc);
    std::strftime(text.data(), text.size(), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &utc);
    formatted_for = now;
  }
  return text.data();
}

std::string error_headers(const Error& error) {
  std::string headers;
  if (error.status == 401) headers += "WWW-Authenticate: Bearer\r\n";
  if (error.retry_after_s > 0) headers += fmt::format("Retry-After: {}\r\n", error.retry_after_s);
  if (!error.should_retry) headers += "x-should-retry: false\r\n";
  return headers;
}

}  // namespace

void append_status_line(std::string& out, int status) {
  out.append("HTTP/1.1 ").append(fmt::format_int(status).c_str()).append(" ");
  out.append(reason_phrase(status)).append("\r\n").append(date_header());
}

void append_length_and_end(std::string& out, size_t length, bool keeps_alive) {
  out.append("Content-Length: ").append(fmt::format_int(length).c_str()).append("\r\n");
  out += keeps_alive ? "\r\n" : "Connection: close\r\n\r\n";
}

net::Task<void> send_json(Request& request, int status, std::string body,
                          std::string_view headers) {
  std::string head;
  append_status_line(head, status);
  head.append("Content-Type: application/json\r\nX-Request-Id: ").append(request.id_hex());
  head.append("\r\n").append(headers);
  append_length_and_end(head, body.size(), request.keeps_alive());
  std::array<iovec, 2> parts{iovec{head.data(), head.size()},
                             iovec{body.data(), request.is_head ? 0 : body.size()}};
  request.status = status;
  co_await request.send_to_client(parts);
}

net::Task<void> tell_error(Request& request, const Error& error) {
  std::string headers = error_headers(error);
  headers += request.error_headers;
  const Dialect dialect =
      request.endpoint != nullptr ? request.endpoint->dialect : Dialect::kOpenAi;
  std::string body = error_body(dialect, error);
  co_await send_json(request, error.status, std::move(body), headers);
}

LastReply last_reply(Server& server, const Error& error) {
  LastReply reply;
  reply.id_hex = server.parts().ids.mint(wall_now_ms()).hex();
  const std::string body = error_body(Dialect::kOpenAi, error);
  append_status_line(reply.bytes, error.status);
  reply.bytes.append("Content-Type: application/json\r\nX-Request-Id: ").append(reply.id_hex);
  reply.bytes.append("\r\n").append(error_headers(error));
  append_length_and_end(reply.bytes, body.size(), false);
  reply.bytes += body;
  return reply;
}

}  // namespace llmproxy
